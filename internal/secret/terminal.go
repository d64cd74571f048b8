package secret

// NoEcho turns the echo of the terminal fd off and returns how to turn it on
// again. Where fd is not a terminal, tty is false and nothing was changed.
func NoEcho(fd int) (restore func(), tty bool, err error) { return noEcho(fd) }
