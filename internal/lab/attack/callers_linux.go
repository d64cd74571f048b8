package attack

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
)

// otherUID is a user other than the one who runs verify, the overflow uid.
const otherUID = 65534

// askAsAnother runs this program again as another user, to find out whether that user may call.
func askAsAnother(t *target) (result, string) {
	if os.Geteuid() != 0 {
		return skipped, "only root can become another user"
	}
	args := []string{childCommand, "--port", strconv.Itoa(t.port)}
	if !t.tcp() {
		args = append(args[:1], "--socket", t.socket)
	}
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env, cmd.Dir = []string{}, "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: otherUID, Gid: otherUID}}
	out, err := cmd.Output()
	if err != nil {
		return skipped, fmt.Sprintf("cannot run as uid %d: %v", otherUID, err)
	}
	return info, fmt.Sprintf("uid %d: %.200s", otherUID, strings.TrimSpace(string(out)))
}

// childAsk is the child's part of askAsAnother.
func childAsk(o *options, stdout io.Writer) error {
	_, text := (&target{options: o}).ask()
	_, err := fmt.Fprintln(stdout, text)
	return err
}
