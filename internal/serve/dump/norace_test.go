//go:build !race

package dump

const race = false
