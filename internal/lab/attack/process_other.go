//go:build !linux

package attack

import (
	"errors"
	"io"
	"runtime"
)

const notHere = "only Linux has these interfaces; this is " + runtime.GOOS

func checkPID(int) error { return nil }

func listenerPID(int) int { return 0 }

func processAttempts(*target) []attempt {
	return []attempt{skip("Its process, as other processes see it", "all of them", "", notHere)}
}

func (t *target) echoedInMemory() (result, string) { return skipped, notHere }

func askAsAnother(*target) (result, string) { return skipped, notHere }

func childAsk(*options, io.Writer) error { return errFlags{errors.New(notHere)} }

func raceAttempts(*target) []attempt { return nil }

func childRace(io.Reader, io.Writer) error { return errFlags{errors.New(notHere)} }

func disruptiveAttempts(t *target) []attempt { return []attempt{t.shutdownAttempt()} }
