//go:build unix

package attack

import (
	"fmt"
	"io/fs"
	"syscall"
)

func ownerOf(st fs.FileInfo) string {
	if s, ok := st.Sys().(*syscall.Stat_t); ok {
		return fmt.Sprintf("owner %d", s.Uid)
	}
	return "owner unknown"
}
