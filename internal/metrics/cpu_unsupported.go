//go:build !linux

package metrics

import "time"

// cpuTime is not supported here.
func cpuTime() (used time.Duration, ok bool) { return 0, false }
