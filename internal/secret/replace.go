package secret

import (
	"errors"
	"io"
)

var errNoSpare = errors.New("bug: a key without a spare page cannot be replaced")

// Replace reads one line with another key from the file descriptor fd, straight into the spare page, and lends that
// from then on. It returns when nobody has the old key any more, which is wiped. On any error the old key stays and
// nothing of the input is left in memory: io.EOF, if the input ends before the first byte; an error that is ErrEmpty,
// ErrTooLong or ErrBadBytes, if the line is not a key; ErrWiped, after Wipe.
//
// It blocks until the line is there, and reads byte by byte, so as to take nothing of the next one: of two keys that
// are written to a FIFO in quick succession, each gets its Replace. A line that is too long is read to its end.
func (k *Key) Replace(fd int) error {
	one := func(p []byte) (int, error) { return readFD(fd, p[:1]) }
	return k.replace(func(room []byte) ([]byte, error) { return k.rules.readNext(room, one) })
}

// Set lets fill put another key into secret memory, of which it gets as much as the longest key needs and returns how
// much it has used. The rest is as with Replace; an error of fill's is returned as it is. fill must not keep room.
func (k *Key) Set(fill func(room []byte) (n int, err error)) error {
	return k.replace(func(room []byte) ([]byte, error) {
		start := copy(room, k.rules.header.prefix())
		n, err := fill(room[start : start+k.rules.max : start+k.rules.max])
		Scrub()
		if err != nil {
			return nil, err
		}
		if err := k.rules.check(room[start : start+n]); err != nil {
			return nil, k.rules.onReplace(err)
		}
		return finish(room, start+n), nil
	})
}

// readNext is read for an input of which more is to come.
func (r rules) readNext(room []byte, one func([]byte) (int, error)) ([]byte, error) {
	began := false
	line, err := r.read(room, func(p []byte) (int, error) {
		n, err := one(p)
		if n == 0 && err == nil && !began {
			err = io.EOF
		}
		began = true
		return n, err
	})
	if err == ErrTooLong {
		err = errors.Join(r.onReplace(err), skipLine(room, one))
	}
	return line, r.onReplace(err)
}

// skipLine reads to the end of a line, all of it into the same byte.
func skipLine(room []byte, one func([]byte) (int, error)) error {
	for {
		n, err := one(room)
		if err != nil || n == 0 || room[0] == '\n' {
			return err
		}
	}
}

// replace puts the line that build makes in the spare room in the key's place.
func (k *Key) replace(build func(room []byte) (line []byte, err error)) error {
	k.change.Lock()
	defer k.change.Unlock()
	if len(k.rooms) == 1 {
		return errNoSpare
	}
	spare, installed := k.rooms[1], false
	defer func() { // on a panic as well
		if !installed {
			Wipe(spare.slice())
		}
	}()
	line, err := build(spare.slice())
	if err == nil {
		err = k.install(newGeneration(spare, line))
	}
	if installed = err == nil; installed {
		k.rooms[0], k.rooms[1] = spare, k.rooms[0]
	}
	return err
}
