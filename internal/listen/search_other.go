//go:build unix && !linux

package listen

// searchOnly has no portable form: folders on the way must be readable.
const searchOnly = 0
