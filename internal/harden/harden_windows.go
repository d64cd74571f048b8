package harden

// lockDown has nothing to set: Windows guards a process by its owner's token
// alone, and its error reporting may write dumps.
func lockDown() (missing []string, err error) {
	return []string{"not-dumpable", "no-core"}, nil
}
