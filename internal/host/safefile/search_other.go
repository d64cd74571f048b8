//go:build unix && !linux

package safefile

// searchOnly is 0: without O_PATH, the directories on a path must be readable.
const searchOnly = 0
