//go:build !race

package tokenexchange

const raceDetector = false
