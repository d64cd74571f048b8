package secret

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/memscan"
	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/proctest"
)

// twinKey returns a key whose second half is the first in lower case, so that any reader can check that it is whole.
func twinKey() string {
	half := rand.Text() + rand.Text()
	return half + strings.ToLower(half)
}

func twinKeys() []string {
	keys := make([]string, 1000)
	for i := range keys {
		keys[i] = twinKey()
	}
	return keys
}

func wholeTwin(line []byte) bool {
	key := line[len(prefix) : len(line)-len(suffix)]
	half := len(key) / 2
	for i, c := range key[:half] {
		if c|0x20 != key[half+i] || c == 0 {
			return false
		}
	}
	return half > 0
}

// spareKey returns an empty key that Set can replace.
func spareKey(t testing.TB, cfg Config) *Key {
	t.Helper()
	cfg.Spare = true
	k, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	unmapLater(t, memoryOf(k))
	return k
}

// setTo calls Set with a text.
func setTo(k *Key, text string) error { return k.Set([]byte(text)) }

// borrow lends k repeatedly until stop is closed, and calls begun after the first time. It returns how often, and how
// often the key was not whole.
func borrow(k *Key, begun func(), stop <-chan struct{}) (seen, torn int64) {
	for {
		err := k.Line(func(line []byte) error {
			before := wholeTwin(line)
			runtime.Gosched()
			if !before || !wholeTwin(line) {
				torn++
			}
			return nil
		})
		if err != nil {
			torn++
		}
		if seen++; seen == 1 {
			begun()
		}
		select {
		case <-stop:
			return seen, torn
		default:
		}
	}
}

// keyFiles writes each key to a file of its own, and returns their directory.
func keyFiles(t *testing.T, keys []string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	for i, key := range keys {
		if err := os.WriteFile(fmt.Sprintf("%s/%04d", dir, i), []byte(key+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// replaceFrom replaces k by the key in the file, as the program does with --key-file.
func replaceFrom(k *Key, file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	return k.Replace(int(f.Fd()))
}

// rotate replaces k from each file of keyFiles in dir, with eight borrowers.
func rotate(k *Key, dir string) (replaced int, seen, torn int64, err error) {
	files, err := filepath.Glob(dir + "/*")
	if err != nil || len(files) == 0 {
		return 0, 0, 0, fmt.Errorf("no keys in %s, %v", dir, err)
	}
	if err := replaceFrom(k, files[0]); err != nil { // before the borrowers start
		return 0, 0, 0, err
	}
	stop := make(chan struct{})
	var users, begun sync.WaitGroup
	for range 8 {
		begun.Add(1)
		users.Go(func() {
			s, bad := borrow(k, begun.Done, stop)
			atomic.AddInt64(&seen, s)
			atomic.AddInt64(&torn, bad)
		})
	}
	begun.Wait()
	for replaced = 1; replaced < len(files) && err == nil; replaced++ {
		err = replaceFrom(k, files[replaced])
	}
	close(stop)
	users.Wait()
	return replaced, seen, torn, err
}

func TestReplaceUnderBorrowers(t *testing.T) {
	keys := twinKeys()
	k := spareKey(t, Config{})
	replaced, seen, torn, err := rotate(k, keyFiles(t, keys))
	if replaced != len(keys) || err != nil {
		t.Errorf("%d of %d keys, %v", replaced, len(keys), err)
	}
	if torn != 0 || seen == 0 {
		t.Errorf("of %d borrowed keys, %d were not whole", seen, torn)
	}
	if got := lineOf(t, k); got != prefix+keys[len(keys)-1]+suffix {
		t.Errorf("the last key is not there: %q", got)
	}
	if i := firstNonZero(k.rooms[1].Bytes()); i >= 0 {
		t.Errorf("byte %d of the spare page is not zero", i)
	}
}

// jobRotate runs TestReplaceUnderBorrowers in a process that its parent can scan.
func jobRotate([]string) error {
	noPreemption()
	if os.Getenv("NO_MEMFD_SECRET") != "" {
		must(deny(unix.SYS_MEMFD_SECRET, unix.ENOSYS))
	}
	k, err := New(Config{Require: os.Getenv("POLICY") == "require", Spare: true})
	must(err)
	replaced, seen, torn, err := rotate(k, os.Getenv("KEYS"))
	fmt.Printf("%s: %d replaced, some seen %t, %d torn, %v\n", kindOf(k), replaced, seen > 0, torn, err)
	proctest.UntilInputEnds()
	return nil
}

// TestReplacedKeysAreGone: after 1,000 replacements under load, none of four sampled old keys is in memory, and the
// last one only in its place.
func TestReplacedKeysAreGone(t *testing.T) {
	for _, c := range []struct {
		policy, without, kind string
		copies                int
	}{{"require", "", "memfd_secret", 0}, {"auto", "1", "locked", 1}} {
		if c.policy == "require" {
			needSecretMemory(t)
		}
		keys := twinKeys()
		child, stderr := startChild(t, "rotate", "", "KEYS="+keyFiles(t, keys), "POLICY="+c.policy, "NO_MEMFD_SECRET="+c.without)
		if got, want := child.Line(), c.kind+": 1000 replaced, some seen true, 0 torn, <nil>"; got != want {
			t.Fatalf("%q, want %q; %s", got, want, stderr)
		}
		for i, copies := range map[int]int{0: 0, 1: 0, 500: 0, 998: 0, 999: c.copies} {
			report, err := memscan.Process(child.Cmd.Process.Pid, []byte(keys[i]))
			if err != nil {
				proctest.Cannot(t, "memscan: "+err.Error())
			}
			if report.Full != copies || report.Fragments != 0 {
				t.Errorf("%s, key %d: %+v, want %d copies", c.kind, i, report, copies)
			}
		}
	}
}

func TestReplaceKeepsTheOldKeyOnErrors(t *testing.T) {
	k := spareKey(t, Config{})
	if err := k.Line(func([]byte) error { return nil }); err != ErrWiped {
		t.Errorf("a key that was never set: %v", err)
	}
	if err := setTo(k, key16); err != nil {
		t.Fatal(err)
	}
	check := func(what string, err, want error) {
		t.Helper()
		if !errors.Is(err, want) || strings.Contains(err.Error(), "standard input") {
			t.Errorf("%s: %v, want %v", what, err, want)
		}
		if got := lineOf(t, k); got != prefix+key16+suffix {
			t.Errorf("%s: the line is %q", what, got)
		}
		if i := firstNonZero(k.rooms[1].Bytes()); i >= 0 {
			t.Errorf("%s: byte %d of the spare page is not zero", what, i)
		}
	}
	for _, c := range keyPolicy {
		if c.err != nil && c.in != "" {
			check(c.what, k.Replace(pipeOf(t, c.in)), c.err)
		}
	}
	check("end of input", k.Replace(pipeOf(t, "")), io.EOF)
	check("closed", k.Replace(1<<29), unix.EBADF)
	check("empty", setTo(k, ""), ErrEmpty)
	check("blank", setTo(k, "a b"), ErrBadBytes)
	of := errors.New("of the input")
	check("input fails", k.replace(func(room []byte) (int, error) { return copy(room, key16), of }), of)
}

func TestReplaceSurvivesAPanic(t *testing.T) {
	k := spareKey(t, Config{})
	func() {
		defer func() { recover() }()
		k.replace(func(p []byte) (int, error) { copy(p, key16); panic("in the input") })
	}()
	if i := firstNonZero(memoryOf(k)); i >= 0 {
		t.Errorf("byte %d is not zero", i)
	}
	if err := setTo(k, key16); err != nil {
		t.Error(err)
	}
}

func TestSetTakesTheLongest(t *testing.T) {
	for _, cfg := range []Config{{}, {Token: true}, {Header: XAPIKey}} {
		longest := MaxKey
		if cfg.Token {
			longest = MaxSlotToken
		}
		k := spareKey(t, cfg)
		for _, more := range []int{1, 2, 5000} {
			if err := setTo(k, keyOf(longest+more)); !errors.Is(err, ErrTooLong) || firstNonZero(memoryOf(k)) >= 0 {
				t.Errorf("%+v: %d more: %v, or something is left", cfg, more, err)
			}
		}
		most := k.MaxLen() // before there is a key
		if err := setTo(k, keyOf(longest)); err != nil || k.Len() != most || k.MaxLen() != most {
			t.Errorf("%+v: %v, Len %d, MaxLen %d, before %d", cfg, err, k.Len(), k.MaxLen(), most)
		}
	}
}

func TestReplaceNeedsASpare(t *testing.T) {
	k := newKey(t, key16)
	if err := k.Replace(pipeOf(t, "another\n")); err != errNoSpare {
		t.Error(err)
	}
	if k.MaxLen() != k.Len() {
		t.Errorf("MaxLen %d, Len %d", k.MaxLen(), k.Len())
	}
	if got := lineOf(t, k); got != prefix+key16+suffix {
		t.Errorf("the line is %q", got)
	}
}

// TestReplaceTakesOneLine: Replace takes the first line, and nothing of a line that is too long becomes a key.
func TestReplaceTakesOneLine(t *testing.T) {
	k := spareKey(t, Config{})
	for _, c := range []struct {
		in   string
		want any
	}{
		{"first\nmore\n", "first"}, {"second\r\n", "second"}, {keyOf(3000) + "\nkey\n", ErrTooLong}, {"\nkey\n", ErrEmpty},
		{"third\n\n", "third"}, {"last", "last"}, {"", io.EOF},
	} {
		err := k.Replace(pipeOf(t, c.in))
		if text, ok := c.want.(string); ok {
			if err != nil || lineOf(t, k) != prefix+text+suffix {
				t.Errorf("%q: %q, %v", text, lineOf(t, k), err)
			}
		} else if !errors.Is(err, c.want.(error)) {
			t.Errorf("%.20q: %v, want %v", c.in, err, c.want)
		}
	}
}

// TestKeyFile: a key is read and replaced from a regular file, with no more bytes than show that it is too long; errors
// name the file.
func TestKeyFile(t *testing.T) {
	path := t.TempDir() + "/key"
	file := func(text string) int {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return openFD(t, path, unix.O_RDONLY)
	}
	cfg := Config{File: "--key-file", Spare: true}
	k, err := Read(file("first\nmore"), cfg)
	if err != nil {
		t.Fatal(err)
	}
	unmapLater(t, memoryOf(k))
	const quoted = "characters other than ASCII letters, digits, '-' and '_'; write the bare key, without the quotes around it"
	for _, c := range []struct {
		in, fresh, replaced string
		form                error
	}{
		{"", "no API key in --key-file; write it there", "EOF", ErrEmpty},
		{"\n", "no API key in --key-file; write it there", "the new key is empty; the old one stays in use", ErrEmpty},
		{keyOf(5000), "the API key in --key-file is longer than 1016 characters; write the key alone",
			"the new key is longer than 1016 characters; write the key alone; the old one stays in use", ErrTooLong},
		{"'quoted'", "the API key in --key-file has " + quoted, "the new key has " + quoted + "; the old one stays in use", ErrBadBytes},
	} {
		if k, err := Read(file(c.in), cfg); k != nil || !errors.Is(err, c.form) || err.Error() != c.fresh {
			t.Errorf("Read of %.20q: %v; want %s", c.in, err, c.fresh)
		}
		fd := file(c.in)
		if err := k.Replace(fd); err == nil || err.Error() != c.replaced {
			t.Errorf("Replace with %.20q: %v; want %s", c.in, err, c.replaced)
		}
		if at, err := unix.Seek(fd, 0, unix.SEEK_CUR); at > int64(MaxKey+1) || err != nil {
			t.Errorf("%.20q: %d bytes were read, %v", c.in, at, err)
		}
		if got := lineOf(t, k); got != prefix+"first"+suffix || firstNonZero(k.rooms[1].Bytes()) >= 0 {
			t.Errorf("%.20q: the line is %q, or something is left", c.in, got)
		}
	}
	if err := k.Replace(file(keyOf(MaxKey) + "\nmore")); err != nil || lineOf(t, k) != prefix+keyOf(MaxKey)+suffix {
		t.Errorf("%q, %v", lineOf(t, k), err)
	}
	_, err = Read(openFD(t, t.TempDir(), unix.O_RDONLY), cfg)
	if !errors.Is(err, unix.EISDIR) || err.Error() != "reading the API key from --key-file: is a directory" {
		t.Error(err)
	}
}

// TestReplaceWaitsForTheLastBorrower: Replace waits for the borrowers of the old key, and neither new borrowers nor Len
// wait for Replace.
func TestReplaceWaitsForTheLastBorrower(t *testing.T) {
	k := spareKey(t, Config{})
	if err := setTo(k, "old"); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	err := k.Line(func(line []byte) error {
		go func() { done <- setTo(k, "new") }()
		for end := time.Now().Add(deadline); lineOf(t, k) != prefix+"new"+suffix; runtime.Gosched() {
			if time.Now().After(end) {
				t.Fatal("the new key is not lent")
			}
		}
		select {
		case <-done:
			t.Error("Set did not wait")
		default:
		}
		if string(line) != prefix+"old"+suffix {
			t.Errorf("the lent line is %q", line)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if i := firstNonZero(k.rooms[1].Bytes()); i >= 0 {
		t.Errorf("byte %d of the old key is left", i)
	}
}

// TestWipeDuringReplace: once Wipe is called, neither the new key nor the old one is lent, although the Replace still
// waits for a borrower of the old one. Wipe returns when both are wiped.
func TestWipeDuringReplace(t *testing.T) {
	k := spareKey(t, Config{})
	if err := setTo(k, "old"); err != nil {
		t.Fatal(err)
	}
	set, wiped := make(chan error, 1), make(chan struct{})
	lent := k.Line(func(old []byte) error {
		go func() { set <- setTo(k, "new") }()
		proctest.Eventually(t, "the new key is lent", func() bool { return lineOf(t, k) == prefix+"new"+suffix })
		return k.Line(func(line []byte) error {
			go func() { k.Wipe(); close(wiped) }()
			proctest.Eventually(t, "nothing is lent", func() bool { return k.Line(func([]byte) error { return nil }) == ErrWiped })
			select {
			case <-wiped:
				t.Error("Wipe did not wait")
			case err := <-set:
				t.Errorf("Set did not wait: %v", err)
			default:
			}
			if string(old) != prefix+"old"+suffix || string(line) != prefix+"new"+suffix {
				t.Errorf("the lent lines are %q and %q", old, line)
			}
			return nil
		})
	})
	if lent != nil {
		t.Fatal(lent)
	}
	<-wiped
	if err := <-set; err != nil {
		t.Errorf("Set: %v", err)
	}
	if i := firstNonZero(memoryOf(k)); i >= 0 || k.Len() != 0 {
		t.Errorf("byte %d is not zero", i)
	}
}

// TestWipeEndsReplace: Wipe does not wait for a Replace that waits for input, and that Replace fails.
func TestWipeEndsReplace(t *testing.T) {
	k := spareKey(t, Config{})
	if err := setTo(k, "old"); err != nil {
		t.Fatal(err)
	}
	r, w := pipe(t, 0)
	done := make(chan error, 1)
	go func() { done <- k.Replace(r) }()
	writeAll(w, "new")
	for end := time.Now().Add(deadline); ; runtime.Gosched() { // until Replace has read that
		if n, err := unix.IoctlGetInt(r, unix.TIOCINQ); n == 0 && err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatal("Replace does not read")
		}
	}
	k.Wipe()
	if err := k.Line(func([]byte) error { return nil }); err != ErrWiped {
		t.Errorf("Line: %v", err)
	}
	writeAll(w, "er\n")
	unix.Close(w)
	if err := <-done; err != ErrWiped {
		t.Errorf("Replace: %v", err)
	}
	if err := setTo(k, "another"); err != ErrWiped {
		t.Errorf("Set: %v", err)
	}
	if i := firstNonZero(memoryOf(k)); i >= 0 {
		t.Errorf("byte %d is not zero", i)
	}
}

func TestForget(t *testing.T) {
	k := spareKey(t, Config{})
	for _, text := range []string{"first", "second"} {
		if err := setTo(k, text); err != nil || lineOf(t, k) != prefix+text+suffix {
			t.Errorf("%s: %v", text, err)
		}
		k.Forget()
		if err := k.Line(func([]byte) error { return nil }); err != ErrWiped || k.Len() != 0 {
			t.Errorf("%s: Line: %v, Len %d", text, err, k.Len())
		}
		if i := firstNonZero(memoryOf(k)); i >= 0 {
			t.Errorf("%s: byte %d is not zero", text, i)
		}
	}
}

func TestReplaceWipeAndForgetTogether(t *testing.T) {
	for range 20 {
		k := spareKey(t, Config{})
		var users sync.WaitGroup
		for range 3 {
			users.Go(func() {
				for setTo(k, twinKey()) == nil {
					k.Len()
				}
			})
		}
		for range 3 {
			users.Go(func() {
				for range 100 {
					k.Line(func(line []byte) error {
						if !wholeTwin(line) {
							t.Errorf("line %q", line)
						}
						return nil
					})
				}
				k.Forget()
			})
		}
		users.Go(k.Wipe)
		users.Wait()
		if i := firstNonZero(memoryOf(k)); i >= 0 || k.Len() != 0 {
			t.Errorf("byte %d is not zero", i)
		}
	}
}

func TestBuffer(t *testing.T) {
	b, err := NewBuffer(false, 5000)
	if err != nil {
		t.Fatal(err)
	}
	unmapLater(t, b.Bytes())
	if len(b.Bytes()) < 5000 || firstNonZero(b.Bytes()) >= 0 {
		t.Errorf("%d bytes, first that is not zero: %d", len(b.Bytes()), firstNonZero(b.Bytes()))
	}
	copy(b.Bytes(), key16)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x"} {
		if got := fmt.Sprintf(verb, b) + fmt.Sprintf(verb, *b); got != redacted+redacted {
			t.Errorf("%s prints %q", verb, got)
		}
	}
	if b.Locked() == nil {
		if _, err := procMem(t, b.Bytes()[:1]); err == nil {
			t.Error("/proc/self/mem reads it")
		}
	}
	Wipe(b.Bytes())
	if i := firstNonZero(b.Bytes()); i >= 0 {
		t.Errorf("byte %d is not zero", i)
	}
}
