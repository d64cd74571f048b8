//go:build amd64 || arm64

package escape

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/proctest"
)

// TestAuditIsKept: lines of the audit log can be neither changed nor erased, although other files may be written,
// replaced and truncated.
func TestAuditIsKept(t *testing.T) {
	proctest.NeedRoot(t, "make another process's system calls")
	dir := proctest.Dir(t, 0o755)
	audit, info, budget := dir+"/a/audit", dir+"/i/info", dir+"/b/budget"
	for _, file := range []string{audit, info, budget} {
		if err := errors.Join(os.Mkdir(filepath.Dir(file), 0o755), os.Chown(filepath.Dir(file), nobody, nobody)); err != nil {
			t.Fatal(err)
		}
	}
	v := launch(t, "--user", "nobody", "--protection=available", "--audit", audit, "--server-info", info,
		"--budget-file", budget, "--max-tokens-per-user", "1000000000")
	v.serves(t)
	var was []byte
	proctest.Eventually(t, "the audit log has a line", func() bool {
		was, _ = os.ReadFile(audit)
		return bytes.HasSuffix(was, []byte("\n"))
	})
	fd, other := v.descriptor(t, audit), v.descriptor(t, info)
	open := func(flags uint64) call { return call{unix.SYS_OPENAT, []uint64{cwd, here, flags, 0o600}, path(audit)} }
	for what, c := range map[string]call{
		"openat to overwrite":      open(unix.O_WRONLY),
		"openat to read and write": open(unix.O_RDWR),
		"openat to truncate":       open(unix.O_WRONLY | unix.O_APPEND | unix.O_TRUNC),
		"ftruncate":                {nr: unix.SYS_FTRUNCATE, args: []uint64{fd, 0}},
		"fcntl to overwrite":       {nr: unix.SYS_FCNTL, args: []uint64{fd, unix.F_SETFL, 0}},
	} {
		v.refuses(t, what, v.inject(t, c), seccomp)
	}
	v.refuses(t, "unlinkat", v.inject(t, call{unix.SYS_UNLINKAT, []uint64{cwd, here}, path(audit)}), landlock)
	// The filter allows truncating by the number of a descriptor, which the log must not get.
	v.succeeds(t, "close", call{nr: unix.SYS_CLOSE, args: []uint64{other}})
	v.refuses(t, "fcntl to duplicate", v.inject(t, call{nr: unix.SYS_FCNTL, args: []uint64{fd, unix.F_DUPFD_CLOEXEC, other}}), seccomp)
	v.inject(t, call{nr: unix.SYS_FTRUNCATE, args: []uint64{other, 0}})
	if text, err := os.ReadFile(audit); err != nil || !bytes.HasPrefix(text, was) {
		t.Errorf("the audit log has %q, and had %q (%v)", text, was, err)
	}
}

// descriptor returns the number under which the target has a file open.
func (v *target) descriptor(t *testing.T, file string) uint64 {
	t.Helper()
	fds, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", v.pid))
	for _, fd := range fds {
		if name, _ := os.Readlink(fd); name == file {
			n, err := strconv.ParseUint(filepath.Base(fd), 10, 32)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatalf("%s is not open (%v)", file, err)
	return 0
}
