//go:build unix

package sandbox

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// noCore sets both limits of RLIMIT_CORE to 0, so that they cannot be raised again without privilege. It stands beside
// PR_SET_DUMPABLE for the systems that lack it, and for a core_pattern that pipes to a program (core(5)).
func noCore() error {
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("setrlimit(RLIMIT_CORE, 0): %w", err)
	}
	var got unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_CORE, &got); err != nil {
		return fmt.Errorf("getrlimit(RLIMIT_CORE): %w", err)
	}
	if got.Cur != 0 || got.Max != 0 {
		return fmt.Errorf("RLIMIT_CORE is still %d/%d", got.Cur, got.Max)
	}
	return nil
}
