//go:build !linux

package metrics

import "time"

// cpuTime is not supported here.
func cpuTime() time.Duration { return 0 }
