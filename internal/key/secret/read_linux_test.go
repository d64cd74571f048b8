package secret

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// deadline is for operations that take microseconds.
const deadline = 30 * time.Second

const (
	key16  = "sk-proj_Aa09-zZ_"
	prefix = "authorization: Bearer "
)

// keyOf returns a key of n characters.
func keyOf(n int) string { return strings.Repeat(key16, n/len(key16)+1)[:n] }

// randomKey returns a key that occurs nowhere else, not even in the test binary.
func randomKey() string { return "sk-" + rand.Text() + "-" + rand.Text() }

// keyPolicy lists inputs with the key that Read accepts or its error.
var keyPolicy = []struct {
	what, in, key string
	err           error
}{
	{what: "end of input", in: key16, key: key16},
	{what: "line feed", in: key16 + "\n", key: key16},
	{what: "CR LF", in: key16 + "\r\n", key: key16},
	{what: "two line feeds", in: key16 + "\n\n", key: key16},
	{what: "CR alone", in: key16 + "\r", key: key16},
	{what: "CR CR LF", in: key16 + "\r\r\n", key: key16},
	{what: "second line", in: "first\nsecond\n", key: "first"},
	{what: "second line that is no key", in: "first\n\x00 \xff", key: "first"},
	{what: "one character", in: "a", key: "a"},
	{what: "no prefix needed", in: "-_", key: "-_"},
	{what: "1015 and CR LF", in: keyOf(1015) + "\r\n", key: keyOf(1015)},
	{what: "1016", in: keyOf(1016), key: keyOf(1016)},
	{what: "1016 and LF", in: keyOf(1016) + "\n", key: keyOf(1016)},
	{what: "1016, LF and more", in: keyOf(1016) + "\n" + keyOf(5000), key: keyOf(1016)},

	{what: "nothing", in: "", err: ErrEmpty},
	{what: "only LF", in: "\n", err: ErrEmpty},
	{what: "only CR LF", in: "\r\n", err: ErrEmpty},
	{what: "only CR", in: "\r\r\r", err: ErrEmpty},
	{what: "first line empty", in: "\n" + key16 + "\n", err: ErrEmpty},
	{what: "1016 and CR LF", in: keyOf(1016) + "\r\n", err: ErrTooLong},
	{what: "1016 and CR", in: keyOf(1016) + "\r", err: ErrTooLong},
	{what: "1017", in: keyOf(1017), err: ErrTooLong},
	{what: "1017 and LF", in: keyOf(1017) + "\n", err: ErrTooLong},
	{what: "1017 CRs", in: strings.Repeat("\r", 1017), err: ErrTooLong},
	{what: "1017 blanks", in: strings.Repeat(" ", 1017), err: ErrTooLong},
	{what: "100 KB", in: keyOf(100_000), err: ErrTooLong},
	{what: "blank in front", in: " " + key16, err: ErrBadBytes},
	{what: "blank inside", in: "sk abc", err: ErrBadBytes},
	{what: "blank at the end", in: key16 + " \n", err: ErrBadBytes},
	{what: "tab", in: key16 + "\t", err: ErrBadBytes},
	{what: "CR in front", in: "\r" + key16 + "\n", err: ErrBadBytes},
	{what: "CR inside", in: "sk\rabc\n", err: ErrBadBytes},
	{what: "full stop", in: "sk.abc", err: ErrBadBytes},
	{what: "base64", in: "sk/+=abc", err: ErrBadBytes},
	{what: "tilde", in: "sk~abc", err: ErrBadBytes},
	{what: "colon", in: "sk:abc", err: ErrBadBytes},
	{what: "NUL", in: "sk\x00abc", err: ErrBadBytes},
	{what: "NUL at the end", in: key16 + "\x00", err: ErrBadBytes},
	{what: "byte FF", in: "sk\xffabc", err: ErrBadBytes},
	{what: "UTF-8", in: "sk\u00e9", err: ErrBadBytes},
	{what: "byte order mark", in: "\ufeff" + key16, err: ErrBadBytes},
	{what: "Bearer", in: "Bearer " + key16, err: ErrBadBytes},
	{what: "quotes", in: `"` + key16 + `"`, err: ErrBadBytes},
	{what: "UTF-16", in: "s\x00k\x00\n\x00", err: ErrBadBytes},
}

func TestReadPolicy(t *testing.T) {
	for _, c := range keyPolicy {
		t.Run(c.what, func(t *testing.T) {
			k, err := readFrom(t, pipeOf(t, c.in))
			checkRead(t, k, err, c.key, c.err)
		})
	}
}

// TestMore: a second line is reported if it has more than spaces.
func TestMore(t *testing.T) {
	for in, want := range map[string]bool{
		"": false, "\n": false, "\r\n \n\t\n": false,
		"\n" + key16: true, "\n" + key16 + "\n": true, "\n\n# a comment\n": true, "\n\xff": true,
	} {
		k := newKey(t, key16+in)
		if got := k.More(); got != want {
			t.Errorf("a key and %q: More is %v", in, got)
		}
		if i := firstNonZero(memoryOf(k)[k.Len():]); i >= 0 {
			t.Errorf("a key and %q: byte %d behind the line is not zero", in, i)
		}
	}
}

// checkRead checks for the key, in a line without anything else, or the error.
func checkRead(t *testing.T, k *Key, err error, key string, want error) {
	t.Helper()
	if want != nil {
		if !errors.Is(err, want) || k != nil {
			t.Fatalf("key %v, error %v; want the error %v", k, err, want)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	line := "authorization: Bearer " + key + "\r\n"
	if got := lineOf(t, k); got != line {
		t.Errorf("line %q, want %q", got, line)
	}
	if k.Len() != len(line) {
		t.Errorf("Len is %d, want %d", k.Len(), len(line))
	}
	if i := firstNonZero(memoryOf(k)[len(line):]); i >= 0 {
		t.Errorf("byte %d behind the line is not zero", i)
	}
}

// memoryOf returns the whole region of k.
func memoryOf(k *Key) []byte { return k.memory.Bytes() }

func lineOf(t *testing.T, k *Key) (line string) {
	t.Helper()
	if err := k.Line(func(p []byte) error { line = string(p); return nil }); err != nil {
		t.Fatal(err)
	}
	return line
}

func firstNonZero(p []byte) int { return bytes.IndexFunc(p, func(r rune) bool { return r != 0 }) }

// readFrom is Read with a deadline; the test's cleanup unmaps the key's memory.
func readFrom(t testing.TB, fd int) (*Key, error) {
	t.Helper()
	type result struct {
		k   *Key
		err error
	}
	done := make(chan result, 1)
	go func() {
		k, err := Read(fd, Config{})
		done <- result{k, err}
	}()
	select {
	case r := <-done:
		if r.k != nil {
			t.Cleanup(func() { unmapGuarded(memoryOf(r.k)) })
		}
		return r.k, r.err
	case <-time.After(deadline):
		t.Fatal("Read does not return")
		return nil, nil
	}
}

// newKey returns a key that was read from a pipe.
func newKey(t testing.TB, key string) *Key {
	t.Helper()
	k, err := readFrom(t, pipeOf(t, key))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// pipeOf returns the reading end of a closed pipe that contains in.
func pipeOf(t testing.TB, in string) int {
	t.Helper()
	r, w := pipe(t, 0)
	go func() {
		defer unix.Close(w)
		writeAll(w, in)
	}()
	return r
}

// pipe returns a pipe, whose reading end the test's cleanup closes.
func pipe(t testing.TB, flags int) (r, w int) {
	t.Helper()
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC|flags); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(p[0]) })
	return p[0], p[1]
}

// writeAll writes until the reader has closed its end.
func writeAll(fd int, in string) {
	for len(in) > 0 {
		n, err := unix.Write(fd, []byte(in))
		if err != nil {
			return
		}
		in = in[n:]
	}
}

// TestReadInPieces: a packet socket returns one piece for each read, however fast the writer is.
func TestReadInPieces(t *testing.T) {
	for _, in := range []string{key16 + "\n", keyOf(1015) + "\r\n", keyOf(1016) + "\n", keyOf(1016)} {
		for _, size := range []int{1, 7, 1016} {
			k, err := readFrom(t, packets(t, in, size))
			checkRead(t, k, err, strings.TrimRight(in, "\r\n"), nil)
		}
	}
	k, err := readFrom(t, packets(t, keyOf(1017), 1))
	checkRead(t, k, err, "", ErrTooLong)
}

// packets returns a descriptor from which in can be read in pieces of size bytes.
func packets(t testing.TB, in string, size int) int {
	t.Helper()
	open := make(chan struct{})
	close(open)
	return gatedPackets(t, in, size, open)
}

func TestReadDoesNotWaitForEndOfInput(t *testing.T) {
	r, w := pipe(t, 0)
	defer unix.Close(w)
	writeAll(w, key16+"\n")
	k, err := readFrom(t, r)
	checkRead(t, k, err, key16, nil)
}

// TestReadEndsWithLineFeedAlone: a line feed that comes by itself ends the key too.
func TestReadEndsWithLineFeedAlone(t *testing.T) {
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0) // which does not join packets
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(ends[0])
	defer unix.Close(ends[1])
	writeAll(ends[1], key16)
	writeAll(ends[1], "\n")
	late := time.AfterFunc(10*time.Second, func() { unix.Shutdown(ends[1], unix.SHUT_WR) })
	k, err := readFrom(t, ends[0])
	checkRead(t, k, err, key16, nil)
	if !late.Stop() {
		t.Error("waited for the end of the input")
	}
}

func TestReadWaitsOnNonBlockingPipe(t *testing.T) {
	r, w := pipe(t, unix.O_NONBLOCK)
	started := make(chan struct{})
	go func() {
		defer unix.Close(w)
		<-started
		writeAll(w, key16[:3])
		writeAll(w, key16[3:])
	}()
	var none [1]byte
	if _, err := unix.Read(r, none[:]); !errors.Is(err, unix.EAGAIN) {
		t.Fatalf("the pipe is not empty and non-blocking: %v", err)
	}
	close(started)
	k, err := readFrom(t, r)
	checkRead(t, k, err, key16, nil)
}

func TestReadRegularFile(t *testing.T) {
	path := t.TempDir() + "/key"
	if err := os.WriteFile(path, []byte(key16+"\nmore"), 0o600); err != nil {
		t.Fatal(err)
	}
	k, err := readFrom(t, openFD(t, path, unix.O_RDONLY))
	checkRead(t, k, err, key16, nil)
}

func TestReadNoInput(t *testing.T) {
	k, err := readFrom(t, openFD(t, os.DevNull, unix.O_RDONLY))
	checkRead(t, k, err, "", ErrEmpty)
	k, err = readFrom(t, openFD(t, t.TempDir(), unix.O_RDONLY))
	checkRead(t, k, err, "", unix.EISDIR)
	k, err = readFrom(t, openFD(t, os.DevNull, unix.O_WRONLY))
	checkRead(t, k, err, "", unix.EBADF)
	const closed = 1 << 29 // above any limit on descriptors
	k, err = readFrom(t, closed)
	checkRead(t, k, err, "", unix.EBADF)
}

func openFD(t *testing.T, path string, flags int) int {
	t.Helper()
	fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

// spy is a second mapping of a region, made while Read waits for input. It shows what Read left behind after an error.
type spy struct {
	memory []byte
	done   chan error
	key    *Key
}

func spyOn(t testing.TB, fd int) *spy {
	t.Helper()
	before := secretMappings(t)
	s := &spy{done: make(chan error, 1)}
	go func() {
		k, err := Read(fd, Config{Require: true})
		s.key = k
		s.done <- err
	}()
	for end := time.Now().Add(deadline); s.memory == nil; {
		for at, size := range secretMappings(t) {
			if before[at] != size {
				s.memory = mapAgain(t, at, size)
			}
		}
		if time.Now().After(end) {
			t.Fatal("Read maps no secret memory")
		}
	}
	return s
}

// result waits for Read. The test's cleanup unmaps both mappings.
func (s *spy) result(t testing.TB) error {
	t.Helper()
	select {
	case err := <-s.done:
		if s.key != nil {
			unmapLater(t, memoryOf(s.key))
		}
		return err
	case <-time.After(deadline):
		t.Fatal("Read does not return")
		return nil
	}
}

func unmapLater(t testing.TB, b []byte) { t.Cleanup(func() { unmapGuarded(b) }) }

var secretmemLine = regexp.MustCompile(`^([0-9a-f]+)-([0-9a-f]+) rw-s .*/secretmem`)

// secretMappings returns the sizes of this process's secret memory by address.
func secretMappings(t testing.TB) map[uintptr]uintptr {
	t.Helper()
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	found := map[uintptr]uintptr{}
	for lines := bufio.NewScanner(bytes.NewReader(maps)); lines.Scan(); {
		if m := secretmemLine.FindStringSubmatch(lines.Text()); m != nil {
			var from, to uintptr
			fmt.Sscanf(m[1]+" "+m[2], "%x %x", &from, &to)
			found[from] = to - from
		}
	}
	return found
}

// mapAgain maps the shared memory at addr a second time, by mremap(2) with an old size of zero.
func mapAgain(t testing.TB, addr, size uintptr) []byte {
	t.Helper()
	p, _, errno := unix.Syscall6(unix.SYS_MREMAP, addr, 0, size, unix.MREMAP_MAYMOVE, 0, 0)
	if errno != 0 {
		t.Fatalf("mremap: %v", errno)
	}
	t.Cleanup(func() { unix.Syscall(unix.SYS_MUNMAP, p, size, 0) })
	return unsafe.Slice((*byte)(*(*unsafe.Pointer)(unsafe.Pointer(&p))), size)
}

func TestReadLeavesNothing(t *testing.T) {
	needSecretMemory(t)
	for _, c := range keyPolicy {
		t.Run(c.what, func(t *testing.T) {
			r, w := pipe(t, 0)
			s := spyOn(t, r)
			go func() {
				defer unix.Close(w)
				writeAll(w, c.in)
			}()
			if err := s.result(t); !errors.Is(err, c.err) {
				t.Fatal(err)
			}
			left := s.memory
			if c.err == nil {
				line := prefix + c.key + suffix
				if string(left[:len(line)]) != line {
					t.Fatalf("the second mapping does not show the line: %q", left[:len(line)])
				}
				left = left[len(line):]
			}
			if i := firstNonZero(left); i >= 0 {
				t.Errorf("byte %d of %d is left: %.40q", i, len(left), left[i:])
			}
		})
	}
}

func TestReadUnmapsAfterAnError(t *testing.T) {
	needSecretMemory(t)
	before := len(secretMappings(t))
	for range 20 {
		if _, err := readFrom(t, pipeOf(t, "no key")); !errors.Is(err, ErrBadBytes) {
			t.Fatal(err)
		}
	}
	if after := len(secretMappings(t)); after != before {
		t.Errorf("%d mappings before, %d after 20 errors", before, after)
	}
}

var wholeKey = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)

// reference is the reference for Read's parser.
func reference(in string) (string, error) {
	line, _, found := strings.Cut(in[:min(len(in), 1017)], "\n")
	if !found && len(in) >= 1017 {
		return "", ErrTooLong
	}
	line = strings.TrimRight(line, "\r")
	switch {
	case line == "":
		return "", ErrEmpty
	case !wholeKey.MatchString(line) && !wholeJWT.MatchString(line):
		return "", ErrBadBytes
	default:
		return line, nil
	}
}

func TestReferenceAgreesWithPolicy(t *testing.T) {
	for _, c := range keyPolicy {
		if key, err := reference(c.in); key != c.key || err != c.err {
			t.Errorf("%s: %q, %v", c.what, key, err)
		}
	}
}

// FuzzRead: Read accepts a key exactly as the reference does, in pieces of any size, and the memory contains the line
// or zeros.
func FuzzRead(f *testing.F) {
	for _, c := range keyPolicy {
		f.Add([]byte(c.in[:min(len(c.in), 2048)]), uint16(0))
		f.Add([]byte(c.in[:min(len(c.in), 2048)]), uint16(5))
	}
	f.Add([]byte("g.a.g"), uint16(4)) // has the shape of a JWT
	f.Fuzz(func(t *testing.T, in []byte, size uint16) {
		if len(in) > 2048 {
			return
		}
		needSecretMemory(t)
		gate := make(chan struct{})
		s := spyOn(t, gatedPackets(t, string(in), int(size)%1200+1, gate))
		close(gate)
		err := s.result(t)
		key, want := reference(string(in))
		if err != want && !errors.Is(err, want) {
			t.Fatalf("error %v, want %v", err, want)
		}
		line := prefix + key + suffix
		if want != nil {
			line = ""
		} else if got := lineOf(t, s.key); got != line {
			t.Fatalf("line %q, want %q", got, line)
		}
		if string(s.memory[:len(line)]) != line || firstNonZero(s.memory[len(line):]) >= 0 {
			t.Error("the memory contains more than the line")
		}
	})
}

// gatedPackets is packets, the first of which is sent when gate is closed.
func gatedPackets(t testing.TB, in string, size int, gate <-chan struct{}) int {
	p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer unix.Close(p[1])
		<-gate
		for ; len(in) > 0; in = in[min(size, len(in)):] {
			if unix.Sendto(p[1], []byte(in[:min(size, len(in))]), unix.MSG_NOSIGNAL, nil) != nil {
				return
			}
		}
	}()
	t.Cleanup(func() {
		unix.Close(p[0])
		<-done
	})
	return p[0]
}
