package keyleak

import (
	"bytes"
	"fmt"
	"os"
	"strings"

	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/memscan"
)

const maxLocated = 10

// locate returns where in the process pid parts of key are, for the diagnosis of how they came there. It scans again: a
// copy that existed only for a moment may be gone.
func locate(pid int, key []byte) string {
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return "; cannot tell where: " + err.Error()
	}
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		return "; cannot tell where: " + err.Error()
	}
	defer mem.Close()
	var found []string
	page := make([]byte, 1<<20)
	for line := range strings.Lines(string(maps)) {
		var start, end int64
		fmt.Sscanf(line, "%x-%x", &start, &end)
		if strings.Contains(line, "---p") || strings.Contains(line, "[v") {
			continue // what Go has reserved and not used, and the kernel's own pages
		}
		for at := start; at < end && len(found) < maxLocated; at += int64(len(page)) {
			n, _ := mem.ReadAt(page[:min(int64(len(page)), end-at)], at)
			found = append(found, locateIn(page[:n], key, at, strings.TrimSpace(line))...)
		}
	}
	if found == nil {
		return "; it was gone when looked for again"
	}
	return ":\n\t" + strings.Join(found, "\n\t")
}

func locateIn(p, key []byte, base int64, mapping string) (found []string) {
	if r := memscan.Bytes(p, key); r.Full+r.Fragments == 0 {
		return nil // what follows is slow
	}
	for from := 0; from+memscan.MinFragment <= len(key); {
		i := bytes.Index(p, key[from:from+memscan.MinFragment])
		if i < 0 {
			from++
			continue
		}
		n := memscan.MinFragment
		for from+n < len(key) && i+n < len(p) && p[i+n] == key[from+n] {
			n++
		}
		found = append(found, fmt.Sprintf("%#x: bytes %d to %d of the key, in %s; before it %q",
			base+int64(i), from, from+n, mapping, p[max(i-160, 0):i]))
		from += n
	}
	return found
}
