package budget

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// The file has a line with its version, one with the start of the sums, one "UID TOKENS" for each user in ascending
// order, and a last line that shows that it is complete. A ledger has exactly one such form. Version 1, which is only
// read, lacks the time.
const (
	header  = "responses-api-proxy token budget, version 2"
	header1 = "responses-api-proxy token budget, version 1"
	since   = "since "
	footer  = "end"
)

// format returns a ledger's file. from is in UTC and in whole seconds.
func format(from time.Time, spent map[uint32]int64) []byte {
	b := []byte(header + "\n" + since + from.Format(time.RFC3339) + "\n")
	for _, uid := range slices.Sorted(maps.Keys(spent)) {
		b = fmt.Appendf(b, "%d %d\n", uid, spent[uid])
	}
	return append(b, footer+"\n"...)
}

// parse reads a file of format's form or of version 1, and returns an error that names the line for anything else. from
// is zero for version 1.
func parse(file []byte) (from time.Time, spent map[uint32]int64, err error) {
	lines := strings.Split(string(file), "\n") // the last one is empty
	first := 2                                 // the number of the first user's line
	switch {
	case lines[0] == header1:
	case lines[0] != header:
		return from, nil, fmt.Errorf("line 1 is not %q", header)
	case len(lines) > 1:
		first = 3
		from, err = time.Parse(since+time.RFC3339, lines[1])
		if err != nil || from.IsZero() || lines[1] != since+from.UTC().Format(time.RFC3339) {
			return from, nil, fmt.Errorf("line 2 is not %q and a time such as 2006-01-02T15:04:05Z", since)
		}
	}
	spent, err = parseSums(lines, first)
	return from.UTC(), spent, err
}

// parseSums reads the lines of users, the first of which is line number first, and the last line.
func parseSums(lines []string, first int) (map[uint32]int64, error) {
	spent, last := map[uint32]int64{}, int64(-1)
	for number := first; number < len(lines); number++ {
		line := lines[number-1]
		uid, tokens, ok := parseLine(line)
		switch {
		case line == footer && number == len(lines)-1 && lines[number] == "":
			return spent, nil
		case line == footer:
			return nil, fmt.Errorf("unexpected text after the line %q", footer)
		case !ok:
			return nil, fmt.Errorf("line %d is not a uid, a space and a number of tokens", number)
		case int64(uid) <= last:
			return nil, fmt.Errorf("line %d: uid %d is not larger than the previous one", number, uid)
		}
		spent[uid], last = tokens, int64(uid)
	}
	return nil, fmt.Errorf("line %d: the file is truncated", max(len(lines), 2))
}

// parseLine reads numbers in their shortest form only, without a sign.
func parseLine(line string) (uid uint32, tokens int64, ok bool) {
	_, err := fmt.Sscanf(line, "%d %d", &uid, &tokens)
	return uid, tokens, err == nil && tokens >= 0 && line == fmt.Sprintf("%d %d", uid, tokens)
}
