package budget

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/proctest"
)

func init() { jobs["sandboxed"] = jobSandboxed }

// TestLandlock: the file is written with the rights to make, write and remove files in its directory, and no others.
func TestLandlock(t *testing.T) {
	file := filepath.Join(t.TempDir(), "b")
	out, err := proctest.Command("sandboxed", file).Output()
	switch {
	case err == nil:
		wantSpent(t, file, 1, 5)
	case string(out) == "no Landlock\n" && os.Getenv("CI") != "true":
		t.Skip("no Landlock")
	default:
		t.Errorf("%v: %s", err, out)
	}
}

func jobSandboxed(args []string) error {
	file := args[0]
	b, err := Open(Config{Limit: 1, File: file})
	if err != nil {
		return err
	}
	runtime.LockOSThread() // the rules apply to this thread, on which Close writes
	if err := restrict(filepath.Dir(file)); err != nil {
		return err
	}
	if _, err := os.Open("/etc/passwd"); !errors.Is(err, unix.EACCES) {
		return fmt.Errorf("the rules are not in force: %v", err)
	}
	b.mu.Lock() // Add without starting the writer, which is not restricted
	b.spent[1], b.dirty = 5, true
	b.mu.Unlock()
	return b.Close()
}

func restrict(dir string) error {
	const everything = 1<<13 - 1 // all rights of Landlock's first version
	attr := unix.LandlockRulesetAttr{Handled_access_fs: everything}
	ruleset, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&attr)), 8, 0)
	if errno == unix.ENOSYS || errno == unix.EOPNOTSUPP {
		return errors.New("no Landlock")
	}
	if errno != 0 {
		return errno
	}
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	rule := unix.LandlockPathBeneathAttr{
		Allowed_access: unix.LANDLOCK_ACCESS_FS_MAKE_REG | unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_REMOVE_FILE,
		Parent_fd:      int32(fd),
	}
	if _, _, errno := unix.Syscall6(unix.SYS_LANDLOCK_ADD_RULE, ruleset, unix.LANDLOCK_RULE_PATH_BENEATH, uintptr(unsafe.Pointer(&rule)), 0, 0, 0); errno != 0 {
		return errno
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	if _, _, errno := unix.Syscall(unix.SYS_LANDLOCK_RESTRICT_SELF, ruleset, 0, 0); errno != 0 {
		return errno
	}
	return nil
}
