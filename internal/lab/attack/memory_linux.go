package attack

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/memscan"
)

const groupMemory = "Its memory, where it can be read"

func (v *processTarget) memoryAttempts() []attempt {
	list := []attempt{
		{groupMemory, "keys of any kind", "nothing has the form of a key", v.scanTokens},
		{groupMemory, "the secret page", "root cannot read it either", v.readSecret},
	}
	const name, proves = "the key itself", "no copy of it, and no 16 consecutive characters"
	if len(v.key) == 0 {
		return append(list, skip(groupMemory, name, proves, "only with --key-stdin"))
	}
	return append(list, attempt{groupMemory, name, proves, v.scanKey})
}

// unreadable returns the verdict for memory that cannot be searched: good, but no proof of what it contains.
func (v *processTarget) unreadable(err error) (result, string) {
	if !errors.Is(err, fs.ErrPermission) {
		return denied(err)
	}
	return skipped, "denied by the kernel; root can search it"
}

// scanKey searches for the given key. Parts of it that the program's file has as well, such as a run of the alphabet,
// prove nothing.
func (v *processTarget) scanKey() (result, string) {
	r, err := memscan.Process(v.pid, v.key)
	if err != nil {
		return v.unreadable(err)
	}
	text := fmt.Sprintf("%d whole, %d in part, in %.1f MB", r.Full, r.Fragments, float64(r.Bytes)/1e6)
	if r.Full+r.Fragments == 0 {
		return pass, text
	}
	if file, err := memscan.File(v.path("exe"), v.key); err == nil && r.Full == 0 && r.Longest <= file.Longest {
		return info, text + "; the program's file has such parts, too: try a random key"
	}
	return fail, text
}

// echoedInMemory reports how much of the upstream's echoes remains in memory. It is for information: the upstream had
// the key.
func (t *target) echoedInMemory() (result, string) {
	r, text := (&processTarget{target: t}).scanKey()
	if r == fail {
		return info, "left in buffers: " + text
	}
	return r, text
}

// scanTokens searches for anything in the form of a key.
func (v *processTarget) scanTokens() (result, string) {
	m, err := memscan.Open(v.pid)
	if err != nil {
		return v.unreadable(err)
	}
	defer m.Close()
	var s tokenScanner
	read, err := m.Each(s.feedAt)
	if err != nil {
		return denied(err)
	}
	s.flush()
	where := fmt.Sprintf("in %.1f MB", float64(read.Bytes)/1e6)
	if read.Bytes == 0 {
		return skipped, "no memory to read"
	}
	if len(s.found) > 0 {
		return fail, listTokens(s.found) + ", " + where
	}
	return pass, fmt.Sprintf("0 found %s; %d pages refused", where, read.Unreadable)
}

// readSecret tries to read secret memory through the two files in /proc that refer to it.
func (v *processTarget) readSecret() (result, string) {
	m, err := memscan.Open(v.pid)
	if err != nil {
		return v.unreadable(err)
	}
	defer m.Close()
	pages := 0
	for _, one := range m.Mappings {
		if !strings.Contains(one.Name, "secretmem") {
			continue
		}
		pages++
		if _, err := m.ReadAt(make([]byte, 1), one.Start); err == nil {
			return fail, "read through /proc/PID/mem"
		}
		f, err := os.Open(v.path(fmt.Sprintf("map_files/%x-%x", one.Start, one.End)))
		if err == nil {
			f.Close()
			return fail, "opened through /proc/PID/map_files"
		}
	}
	if pages == 0 {
		return info, "the proxy has no secret memory"
	}
	return pass, "refused, in /proc/PID/mem and map_files"
}
