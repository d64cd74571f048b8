//go:build !linux

package memscan

import (
	"errors"
	"fmt"
)

// Process is not supported on this system: it returns an error that wraps
// errors.ErrUnsupported.
func Process(pid int, key []byte) (Report, error) {
	return Report{}, fmt.Errorf("memscan: reading process %d: %w", pid, errors.ErrUnsupported)
}
