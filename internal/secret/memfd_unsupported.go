//go:build unix && !(linux && (amd64 || arm64 || riscv64))

package secret

import "errors"

func mapSecret(int) ([]byte, error) {
	return nil, errors.New("memfd_secret is Linux only, on amd64, arm64 and riscv64")
}
