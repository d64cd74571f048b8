//go:build !(linux && (amd64 || arm64 || riscv64))

package secret

import "errors"

// mapSecret returns an error. x/sys has the system call on three architectures; Linux has it on 386, loong64 and s390x
// too, where the program is not tested.
func mapSecret(int) ([]byte, error) {
	return nil, errors.New("memfd_secret is used on Linux on amd64, arm64 and riscv64 only")
}

// HasSecretMemory reports false.
func HasSecretMemory() bool { return false }
