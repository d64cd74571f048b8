package peer

import (
	"os"
	"strings"
)

// overflowUID is what the kernel reports for users that have no number in this
// process's user namespace (user_namespaces(7)).
const overflowUID = 65534

// IsOverflow reports whether uid stands for every user that this process's user
// namespace does not map, so that it must not be admitted as one.
func IsOverflow(uid uint32) bool { return uid == overflowUID && inUserNamespace() }

// inUserNamespace reports whether some users of the host have no number here.
func inUserNamespace() bool {
	b, err := os.ReadFile("/proc/self/uid_map")
	return err == nil && strings.Join(strings.Fields(string(b)), " ") != "0 0 4294967295"
}
