package secret

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
)

const (
	prefix = "authorization: Bearer "
	suffix = "\r\n"

	// bufferSize is the original's: "Bearer " and the key share 1,024 bytes.
	bufferSize = 1024
	maxInput   = bufferSize - len("Bearer ")

	// MaxKey is the longest key that Read accepts, in bytes.
	MaxKey = maxInput - 1

	keySpace = 4096 // room for the line, and a page of its own on most systems
)

// The errors of Read that say something about the key itself.
var (
	ErrEmpty    = errors.New("no API key on standard input; pipe it in: printenv OPENAI_API_KEY | env -u OPENAI_API_KEY responses-api-proxy")
	ErrTooLong  = fmt.Errorf("the API key on standard input is longer than %d characters; pipe in the key alone", MaxKey)
	ErrBadBytes = errors.New("the API key on standard input has characters other than ASCII letters, digits, '-' and '_'; pipe in the bare key, without quotes, blanks or 'Bearer'")
	// ErrWiped is returned by everything that needs a key after Wipe.
	ErrWiped = errors.New("the API key has been wiped")
)

// Key is one API key in secret memory, as the whole header line in which it
// goes out. It prints as [redacted]. Its methods may be used concurrently.
type Key struct {
	r     *region
	slots chan *Slot

	mu   sync.RWMutex // held for reading while line is lent
	line secretBytes  // prefix, key, suffix; empty once wiped
}

// Read takes a key from the file descriptor fd into secret memory without any
// buffer in between. It blocks until a line feed, the end of the input, or
// too many bytes have come; what follows the first line is dropped. Carriage
// returns at the line's end are not part of the key. On any error nothing of
// the input is left in memory.
func Read(fd int, policy Policy) (*Key, error) {
	r, slots, err := mapKey(policy)
	if err != nil {
		return nil, err
	}
	line, err := readLine(fd, r.slice()[:keySpace])
	if err != nil {
		wipe(r.slice())
		return nil, errors.Join(err, unmapGuarded(r.slice()))
	}
	return &Key{r: r, slots: slots, line: hide(line)}, nil
}

// readLine reads and checks the key behind prefix in page, and returns the
// finished header line.
func readLine(fd int, page []byte) ([]byte, error) {
	start := copy(page, prefix)
	input := page[start : start+maxInput]
	n, err := fill(input, func(p []byte) (int, error) { return readFD(fd, p) })
	if err != nil {
		return nil, fmt.Errorf("reading the API key from standard input: %w", err)
	}
	length, err := validate(input, n)
	if err != nil {
		return nil, err
	}
	end := start + length
	wipe(page[end:]) // what followed the key
	end += copy(page[end:], suffix)
	return page[:end:end], nil
}

// fill reads until p holds a line feed, is full, or the input ends.
func fill(p []byte, read func([]byte) (int, error)) (n int, err error) {
	for n < len(p) {
		m, err := read(p[n:])
		if err != nil {
			return n, err
		}
		if m == 0 || bytes.IndexByte(p[n:n+m], '\n') >= 0 {
			return n + m, nil
		}
		n += m
	}
	return n, nil
}

// validate finds the key at the beginning of the n bytes read into input, in
// constant space, and returns its length.
func validate(input []byte, n int) (int, error) {
	length := bytes.IndexByte(input[:n], '\n')
	if length < 0 {
		if n == len(input) {
			return 0, ErrTooLong
		}
		length = n
	}
	for length > 0 && input[length-1] == '\r' {
		length--
	}
	if length == 0 {
		return 0, ErrEmpty
	}
	for _, c := range input[:length] {
		if !allowed(c) {
			return 0, ErrBadBytes
		}
	}
	return length, nil
}

func allowed(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_'
}

// Line lends the header line "authorization: Bearer KEY\r\n" to use, which must
// neither keep nor change it, and returns use's error. Wipe waits for it.
func (k *Key) Line(use func(line []byte) error) error {
	k.mu.RLock()
	defer k.mu.RUnlock()
	if k.line.n == 0 {
		return ErrWiped
	}
	return use(k.line.slice())
}

// Len is the length of what Line lends, in bytes; 0 once wiped.
func (k *Key) Len() int {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return k.line.n
}

// Wipe overwrites the key. It blocks while Line lends it. The memory stays
// mapped, so that a late reader finds zeros. It may be called twice.
func (k *Key) Wipe() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.line = secretBytes{}
	wipe(k.r.slice()[:keySpace])
}

// Memory tells what the key lies in, and if that is not MemfdSecret, why.
func (k *Key) Memory() (Kind, error) { return k.r.kind, k.r.why }

// Format prints [redacted] whatever the verb.
func (k *Key) Format(f fmt.State, _ rune) { io.WriteString(f, redacted) }

// MarshalText keeps the key out of encoding/json and its kin.
func (k *Key) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// LogValue keeps the key out of log/slog.
func (k *Key) LogValue() slog.Value { return slog.StringValue(redacted) }

// mapKey maps the memory for a key and for as many slots as can be had.
func mapKey(policy Policy) (*region, chan *Slot, error) {
	page := os.Getpagesize()
	r, err := newRegion(policy, roundUp(keySpace+maxSlots*SlotSize, page), roundUp(keySpace+SlotSize, page))
	if err != nil {
		return nil, nil, err
	}
	return r, cutSlots(r.slice()[keySpace:]), nil
}

func roundUp(n, unit int) int { return (n + unit - 1) / unit * unit }
