package main

// closers are what gives back what was opened, in its order. Whoever opens
// something adds what closes it, so that closing is the reverse of opening by
// construction, wherever opening has ended.
type closers []func()

func (c *closers) add(f func()) { *c = append(*c, f) }

// close calls all of them, the last one first. Calling it again does nothing.
func (c *closers) close() {
	for len(*c) > 0 {
		last := len(*c) - 1
		f := (*c)[last]
		*c = (*c)[:last]
		f()
	}
}
