//go:build unix && !linux

package harden

// lockDown sets what every Unix has. A process of the same user can still be
// debugged here.
func lockDown() (missing []string, err error) {
	return []string{"not-dumpable"}, noCore()
}
