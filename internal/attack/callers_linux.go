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

// another is who asks besides us: nobody.
const another = 65534

// askAsAnother runs this program again, as another user, to see whether that
// one may call.
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
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: another, Gid: another}}
	out, err := cmd.Output()
	if err != nil {
		return skipped, fmt.Sprintf("cannot ask as uid %d: %v", another, err)
	}
	return info, fmt.Sprintf("uid %d: %.200s", another, strings.TrimSpace(string(out)))
}

// childAsk is what the other user does.
func childAsk(o *options, stdout io.Writer) error {
	_, text := (&target{options: o}).ask()
	_, err := fmt.Fprintln(stdout, text)
	return err
}
