//go:build unix && !linux

package safefile

// searchOnly has no portable form: directories on the way must be readable.
const searchOnly = 0
