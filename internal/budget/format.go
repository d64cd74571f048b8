package budget

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// The file has a line for its version, one "UID TOKENS" for every user in rising order, and one to show that nothing is
// missing behind it. A book has exactly one form.
const (
	header = "responses-api-proxy token budget, version 1"
	footer = "end"
)

// format returns a book's file.
func format(spent map[uint32]int64) []byte {
	b := []byte(header + "\n")
	for _, uid := range slices.Sorted(maps.Keys(spent)) {
		b = fmt.Appendf(b, "%d %d\n", uid, spent[uid])
	}
	return append(b, footer+"\n"...)
}

// parse reads a file as format writes it, and nothing else. Its errors name the line.
func parse(file []byte) (map[uint32]int64, error) {
	spent, last := map[uint32]int64{}, int64(-1)
	lines := strings.Split(string(file), "\n") // the last of which has no line feed
	if lines[0] != header {
		return nil, fmt.Errorf("line 1 is not %q", header)
	}
	for number := 2; number < len(lines); number++ {
		line := lines[number-1]
		uid, tokens, ok := parseLine(line)
		switch {
		case line == footer && number == len(lines)-1 && lines[number] == "":
			return spent, nil
		case line == footer:
			return nil, fmt.Errorf("there is something behind the line %q", footer)
		case !ok:
			return nil, fmt.Errorf("line %d is not a uid, a space and a number of tokens", number)
		case int64(uid) <= last:
			return nil, fmt.Errorf("line %d: uid %d is not larger than the one before", number, uid)
		}
		spent[uid], last = tokens, int64(uid)
	}
	return nil, fmt.Errorf("line %d: the file is cut", max(len(lines), 2))
}

// parseLine reads numbers in their shortest form only, without a sign.
func parseLine(line string) (uid uint32, tokens int64, ok bool) {
	_, err := fmt.Sscanf(line, "%d %d", &uid, &tokens)
	return uid, tokens, err == nil && tokens >= 0 && line == fmt.Sprintf("%d %d", uid, tokens)
}
