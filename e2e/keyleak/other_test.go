//go:build !linux

package keyleak

import "testing"

func TestMemory(t *testing.T) {
	t.Skip("NOT TESTED: this system has neither secret memory nor a way to look for copies")
}
