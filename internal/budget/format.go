package budget

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strconv"
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
	b := append([]byte(header), '\n')
	for _, uid := range slices.Sorted(maps.Keys(spent)) {
		b = strconv.AppendUint(b, uint64(uid), 10)
		b = append(b, ' ')
		b = strconv.AppendInt(b, spent[uid], 10)
		b = append(b, '\n')
	}
	return append(append(b, footer...), '\n')
}

// parse reads a file as format writes it, and nothing else. Its errors name the line.
func parse(file []byte) (map[uint32]int64, error) {
	line, rest, _ := bytes.Cut(file, []byte("\n"))
	if string(line) != header {
		return nil, fmt.Errorf("line 1 is not %q", header)
	}
	spent := map[uint32]int64{}
	last := int64(-1)
	for number := 2; ; number++ {
		var whole bool
		if line, rest, whole = bytes.Cut(rest, []byte("\n")); !whole {
			return nil, fmt.Errorf("line %d: the file is cut", number)
		}
		if string(line) == footer {
			break
		}
		uid, tokens, ok := parseLine(string(line))
		switch {
		case !ok:
			return nil, fmt.Errorf("line %d is not a uid, a space and a number of tokens", number)
		case int64(uid) <= last:
			return nil, fmt.Errorf("line %d: uid %d is not larger than the one before", number, uid)
		}
		spent[uid], last = tokens, int64(uid)
	}
	if len(rest) > 0 {
		return nil, fmt.Errorf("there is something behind the line %q", footer)
	}
	return spent, nil
}

// parseLine reads numbers in their shortest form only, without a sign.
func parseLine(line string) (uid uint32, tokens int64, ok bool) {
	first, second, _ := strings.Cut(line, " ")
	u, errUID := strconv.ParseUint(first, 10, 32)
	t, errTokens := strconv.ParseInt(second, 10, 64)
	ok = errUID == nil && errTokens == nil && t >= 0 && line == fmt.Sprintf("%d %d", u, t)
	return uint32(u), t, ok
}
