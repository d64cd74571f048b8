//go:build !unix

package audit

import (
	"fmt"
	"os"
)

// open opens what cfg names; who may write to it is not looked at here.
func open(cfg Config) (f *os.File, torn bool, err error) {
	if cfg.Path == "-" {
		return os.Stdout, false, nil
	}
	f, err = reopen(cfg)
	return f, false, err
}

func canReopen(cfg Config, _ *os.File) bool { return cfg.Path != "-" }

func reopen(cfg Config) (*os.File, error) {
	if info, err := os.Stat(cfg.Path); err == nil && info.IsDir() {
		return nil, fmt.Errorf("%s is a folder; name a file in it", cfg.Path)
	}
	return os.OpenFile(cfg.Path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
}
