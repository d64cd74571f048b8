//go:build !linux && !darwin

package listen

import "errors"

func peer(int) (uid, gid uint32, groups []uint32, pid int32, err error) {
	return 0, 0, nil, 0, errors.ErrUnsupported
}
