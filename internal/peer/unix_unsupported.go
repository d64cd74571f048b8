//go:build !linux && !darwin

package peer

import "errors"

func ofUnix(int) (Credentials, error) { return Credentials{}, errors.ErrUnsupported }
