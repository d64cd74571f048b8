//go:build race

package tokenexchange

const raceDetector = true
