//go:build unix

package safefile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/proctest"
)

const nobody = 65534

// TestMain checks that no descriptor stays open, whatever fails.
func TestMain(m *testing.M) {
	open := func() int {
		r, w, err := os.Pipe() // registers with the poller, which keeps descriptors of its own
		if err != nil {
			panic(err)
		}
		defer w.Close()
		defer r.Close()
		all, err := os.ReadDir("/dev/fd")
		if err != nil {
			panic(err)
		}
		return len(all)
	}
	before := open()
	code := m.Run()
	if after := open(); code == 0 && after > before {
		fmt.Printf("%d descriptors are open, %d before the tests\n", after, before)
		code = 1
	}
	os.Exit(code)
}

// try fails the test at the first error.
func try(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// directory makes a directory with this mode, and an owner if that is not -1.
func directory(t *testing.T, mode fs.FileMode, owner int) string {
	t.Helper()
	if owner >= 0 && os.Geteuid() != 0 {
		proctest.Cannot(t, "only root can give files away")
	}
	dir := filepath.Join(t.TempDir(), "d")
	try(t, os.Mkdir(dir, 0o700), os.Chmod(dir, mode), os.Chown(dir, owner, -1))
	return dir
}

// TestPolicies compares check with the table in the package comment.
func TestPolicies(t *testing.T) {
	self := uint32(os.Geteuid())
	const other, owner, dirOwner = 4242, 4343, 4444
	own := unix.Stat_t{Uid: self, Mode: 0o755}
	sticky := unix.Stat_t{Uid: self, Mode: 0o1777}
	group := unix.Stat_t{Uid: self, Mode: 0o775}
	theirs := unix.Stat_t{Uid: dirOwner, Mode: 0o755}
	regular := func(uid uint32, mode uint32) unix.Stat_t {
		st := unix.Stat_t{Uid: uid, Mode: unix.S_IFREG, Nlink: 1}
		addMode(&st.Mode, mode)
		return st
	}
	linked := func(uid uint32, mode uint32) unix.Stat_t {
		st := regular(uid, mode)
		st.Nlink = 2
		return st
	}
	fifo := func(uid uint32) unix.Stat_t { return unix.Stat_t{Uid: uid, Mode: unix.S_IFIFO | 0o666, Nlink: 1} }
	const ok = ""
	for _, c := range []struct {
		dir, file          unix.Stat_t
		inPlace, log, priv string
	}{
		// A directory in which only root and the effective user can create files.
		{own, regular(self, 0o600), ok, ok, ok},
		{own, regular(0, 0o600), ok, ok, ok},
		{own, regular(owner, 0o600), ok, ok, ok},
		{own, regular(other, 0o600), ok, "another user (uid 4242)", "another user (uid 4242)"},
		{own, regular(self, 0o640), ok, ok, "mode 0640"},
		{own, regular(self, 0o604), ok, ok, "mode 0604"},
		{own, regular(self, 0o601), ok, ok, "mode 0601"},
		{own, regular(self, 0o700), ok, ok, ok},
		{own, regular(self, 0o620), ok, "mode 0620", "mode 0620"},
		{own, regular(0, 0o602), ok, "mode 0602", "mode 0602"},
		{own, regular(owner, 0o666), ok, "mode 0666", "mode 0666"},
		{own, linked(self, 0o600), ok, ok, ok},
		{own, fifo(other), ok, ok, "not a regular file"},
		// Directories in which others can.
		{sticky, regular(self, 0o600), ok, ok, ok},
		{sticky, regular(owner, 0o600), ok, ok, ok},
		{sticky, regular(other, 0o600), "directory that other users may write to", "directory that other users", "directory that other users"},
		{sticky, fifo(other), "directory that other users", "directory that other users", "directory that other users"},
		{sticky, fifo(0), ok, ok, "not a regular file"},
		{sticky, linked(self, 0o600), "another hard link", "another hard link", "another hard link"},
		{sticky, linked(0, 0o600), "another hard link", "another hard link", "another hard link"},
		{group, regular(other, 0o600), "directory that other users", "directory that other users", "directory that other users"},
		{group, linked(0, 0o600), "another hard link", "another hard link", "another hard link"},
		{theirs, regular(dirOwner, 0o600), ok, "another user (uid 4444)", "another user (uid 4444)"},
		{theirs, regular(0, 0o600), ok, ok, ok},
		{theirs, linked(0, 0o600), "another hard link", "another hard link", "another hard link"},
		{theirs, fifo(dirOwner), ok, ok, "not a regular file"},
	} {
		for _, p := range []struct {
			name string
			policy
			want string
		}{{"inPlace", inPlace, c.inPlace}, {"logged", logged, c.log}, {"private", private, c.priv}} {
			err := p.check("/d/f", &c.dir, &c.file, owner)
			if p.want == ok && err != nil || p.want != ok && (err == nil || !strings.Contains(err.Error(), p.want)) {
				t.Errorf("%s: directory of %d, %o; file of %d, %o, %d links: %v, want %q",
					p.name, c.dir.Uid, c.dir.Mode, c.file.Uid, c.file.Mode, c.file.Nlink, err, p.want)
			}
			if err != nil && (!strings.Contains(err.Error(), "/d/f") || !strings.Contains(err.Error(), "; ")) {
				t.Errorf("%q does not name the file, or what to do", err)
			}
		}
	}
	if err := logged.check("/d/f", &own, &unix.Stat_t{Uid: owner, Mode: unix.S_IFREG | 0o600, Nlink: 1}, -1); self != owner && err == nil {
		t.Error("an owner that was not named is trusted")
	}
}

// addMode adds bits to a mode, whose type differs between systems.
func addMode[M ~uint16 | ~uint32](to *M, bits uint32) { *to |= M(bits) }

// openers open a file under each policy.
var openers = map[string]func(path string) error{
	"in place": func(path string) error {
		f, read, err := OpenInPlace(path)
		if err == nil {
			f.Close()
		}
		if read != nil {
			read.Close()
		}
		return err
	},
	"append": func(path string) error {
		a, f, _, err := OpenAppend(path, -1)
		if err == nil {
			f.Close()
			a.Close()
		}
		return err
	},
	"append again": func(path string) error {
		d, name, err := logged.parent(path, -1, false)
		if err != nil {
			return err
		}
		defer d.Close()
		f, err := (&Appender{d, name}).Reopen()
		if err == nil {
			f.Close()
		}
		return err
	},
	"store": func(path string) error {
		s, err := OpenStore(path, -1)
		if err != nil {
			return err
		}
		_, err = s.Read()
		return errors.Join(err, s.Close())
	},
	"lock": func(path string) error {
		d, name, err := private.parent(path, -1, false)
		if err != nil {
			return err
		}
		defer d.Close()
		l, err := d.Lock(name)
		if err == nil {
			l.Close()
		}
		return err
	},
}

// refused checks that every opener refuses path, and that the target is unchanged.
func refused(t *testing.T, path, target, want string) {
	t.Helper()
	for name, open := range openers {
		if err := open(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
		if text, err := os.ReadFile(target); err != nil || string(text) != "precious" {
			t.Errorf("%s: the target holds %q (%v)", name, text, err)
		}
	}
}

// TestHardLinksAreRefused: in a directory where another user can create files, that user's hard link to root's file is
// not written to.
func TestHardLinksAreRefused(t *testing.T) {
	for what, dir := range map[string]string{
		"sticky":         directory(t, 0o777|os.ModeSticky, -1),
		"for a group":    directory(t, 0o775, -1),
		"another user's": directory(t, 0o755, nobody),
	} {
		t.Run(what, func(t *testing.T) {
			target := filepath.Join(filepath.Dir(dir), "target")
			try(t, os.WriteFile(target, []byte("precious"), 0o600), os.Link(target, filepath.Join(dir, "f")))
			refused(t, filepath.Join(dir, "f"), target, "has another hard link")
			try(t, os.Remove(filepath.Join(dir, "f")))
			for name, open := range openers {
				if err := open(filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("%s: a file of our own: %v", name, err)
				}
			}
		})
	}
}

// TestPlantedLinksAreRefused: another user's links on the path are refused, whether they replace a directory or the
// file.
func TestPlantedLinksAreRefused(t *testing.T) {
	dir := directory(t, 0o777|os.ModeSticky, -1)
	if os.Geteuid() != 0 {
		proctest.Cannot(t, "only root can plant another user's link")
	}
	home := filepath.Dir(dir)
	target := filepath.Join(home, "f")
	try(t, os.WriteFile(target, []byte("precious"), 0o600),
		os.Symlink(home, filepath.Join(dir, "home")), os.Lchown(filepath.Join(dir, "home"), nobody, -1),
		os.Symlink(target, filepath.Join(dir, "f")), os.Lchown(filepath.Join(dir, "f"), nobody, -1))
	refused(t, filepath.Join(dir, "home", "f"), target, "the link "+filepath.Join(dir, "home")+" belongs to another user (uid 65534)")
	refused(t, filepath.Join(dir, "f"), target, filepath.Join(dir, "f"))
	if _, err := logged.open(filepath.Join(dir, "home"), -1); err == nil {
		t.Error("the link was followed to a directory")
	}
	if _, _, _, err := OpenAppend(filepath.Join(dir, "home", "f"), nobody); err == nil || !strings.Contains(err.Error(), "the link ") {
		t.Errorf("the owner of a log has led elsewhere: %v", err)
	}
	try(t, os.Lchown(filepath.Join(dir, "home"), 0, -1)) // root's links are followed
	for name, open := range openers {
		if err := open(filepath.Join(dir, "home", "f")); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestLastLink: a link of our own in place of the file is followed only by OpenInPlace.
func TestLastLink(t *testing.T) {
	dir := directory(t, 0o700, -1)
	path := filepath.Join(dir, "link")
	try(t, os.WriteFile(filepath.Join(dir, "f"), nil, 0o600), os.Symlink("f", path))
	for name, open := range openers {
		if err := open(path); (err == nil) != (name == "in place") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestManyLinks: as many links are followed as Linux follows, and a loop of links ends.
func TestManyLinks(t *testing.T) {
	dir := directory(t, 0o700, -1)
	at := func(n int) string { return filepath.Join(dir, strconv.Itoa(n)) }
	try(t, os.WriteFile(at(0), nil, 0o600))
	for n := range maxLinks + 1 {
		try(t, os.Symlink(strconv.Itoa(n), at(n+1)))
	}
	try(t, os.Symlink("loop", filepath.Join(dir, "loop")))
	for path, want := range map[string]error{at(maxLinks): nil, at(maxLinks + 1): unix.ELOOP, filepath.Join(dir, "loop"): unix.ELOOP} {
		if err := openers["in place"](path); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", path, err, want)
		}
		if err := openers["append"](filepath.Join(path, "f")); want != nil && !errors.Is(err, want) {
			t.Errorf("%s/f: %v, want %v", path, err, want)
		}
	}
}

// TestNoName: a path without a last element is an error of every opener.
func TestNoName(t *testing.T) {
	for name, open := range openers {
		if err := open("/"); !errors.Is(err, unix.EISDIR) {
			t.Errorf("%s: %v, want %v", name, err, unix.EISDIR)
		}
	}
}

// TestMissingDirectory: a missing directory is made only where the policy says so.
func TestMissingDirectory(t *testing.T) {
	for name, open := range openers {
		dir := filepath.Join(t.TempDir(), "missing")
		if err := open(filepath.Join(dir, "f")); errors.Is(err, fs.ErrNotExist) != (name != "in place") {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) != (name != "in place") {
			t.Errorf("%s: the directory: %v", name, err)
		}
	}
}

// TestLockExcludes: of those who lock a file, and remove it before they unlock it, one holds the lock at a time.
func TestLockExcludes(t *testing.T) {
	d, err := private.open(directory(t, 0o700, -1), -1)
	try(t, err)
	defer d.Close()
	var holders, locked atomic.Int32
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 1000 {
				f, err := d.Lock("lock")
				if errors.Is(err, ErrLocked) {
					continue
				}
				if n := holders.Add(1); n != 1 || err != nil {
					t.Errorf("%d hold the lock, %v", n, err)
				}
				locked.Add(1)
				holders.Add(-1)
				if err = errors.Join(d.Remove("lock"), f.Close()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	if all.Wait(); locked.Load() == 0 {
		t.Error("the lock was never taken")
	}
}

// TestRelativePath: where directories must be trusted, those above the current one must be, too.
func TestRelativePath(t *testing.T) {
	dir := directory(t, 0o755, nobody)
	try(t, os.Mkdir(filepath.Join(dir, "ours"), 0o700), os.WriteFile(filepath.Join(dir, "ours", "f"), nil, 0o600))
	t.Chdir(filepath.Join(dir, "ours"))
	for _, path := range []string{"", "d", "../ours"} {
		if d, err := OpenTrusted(path); err == nil || !strings.Contains(err.Error(), "belongs to another user (uid 65534)") {
			t.Errorf("%q: %v, %v", path, d, err)
		}
	}
	for _, open := range openers { // the other policies leave that to the operator
		try(t, open("f"))
	}
}

// TestOpenAgain: only the regular file that is open is opened for reading, not another one that has its name by now.
func TestOpenAgain(t *testing.T) {
	d, err := private.open(directory(t, 0o700, -1), -1)
	try(t, err)
	defer d.Close()
	f, err := d.Create("f")
	try(t, err)
	defer f.Close()
	read, _ := d.openAgain("f", f)
	if read == nil {
		t.Fatal("the file was not opened")
	}
	read.Close()
	other, err := d.Create("other")
	try(t, err, other.Close(), d.Rename("other", "f"))
	if read, _ := d.openAgain("f", f); read != nil {
		t.Error("another file was opened")
	}
	try(t, unix.Mkfifo(filepath.Join(d.path, "fifo"), 0o600))
	fifo, err := d.open("fifo", os.O_RDWR, 0, logged)
	try(t, err)
	defer fifo.Close()
	if read, _ := d.openAgain("fifo", fifo); read != nil {
		t.Error("a FIFO was opened for reading")
	}
}

// TestSame: files are the same by device and inode.
func TestSame(t *testing.T) {
	for _, c := range []struct {
		a, b unix.Stat_t
		want bool
	}{
		{unix.Stat_t{Dev: 1, Ino: 2}, unix.Stat_t{Dev: 1, Ino: 2, Uid: 5}, true},
		{unix.Stat_t{Dev: 1, Ino: 2}, unix.Stat_t{Dev: 3, Ino: 2}, false},
		{unix.Stat_t{Dev: 1, Ino: 2}, unix.Stat_t{Dev: 1, Ino: 3}, false},
	} {
		if Same(&c.a, &c.b) != c.want {
			t.Errorf("%+v and %+v are the same: %t", c.a, c.b, !c.want)
		}
	}
}

// TestInputFile: what others could replace is refused, on the way and in the place of the file; another file, and
// another directory behind a link, are found by Open.
func TestInputFile(t *testing.T) {
	if os.Geteuid() != 0 {
		proctest.Cannot(t, "only root can give files away")
	}
	const owner, other = 4343, 4242
	dir := filepath.Join(t.TempDir(), "d")
	one, two, data, file := filepath.Join(dir, "one"), filepath.Join(dir, "two"), filepath.Join(dir, "data"), filepath.Join(dir, "key")
	try(t, os.Mkdir(dir, 0o755), os.Mkdir(one, 0o755), os.Mkdir(two, 0o755), os.Symlink("one", data), os.Symlink("data/key", file))
	try(t, os.WriteFile(one+"/key", []byte("1"), 0o640), os.WriteFile(two+"/key", []byte("2"), 0o640))
	find := func(text, refusal string) {
		t.Helper()
		var got []byte
		in, err := FindInput(file, owner)
		if err == nil {
			got, err = content(in)
			in.Close()
		}
		if string(got) != text || (err == nil) != (refusal == "") || err != nil && !strings.Contains(err.Error(), refusal) {
			t.Errorf("%q, %v; want %q, %q", got, err, text, refusal)
		}
	}
	find("1", "")
	for _, path := range []string{dir, one, data, file, one + "/key"} {
		try(t, os.Lchown(path, owner, -1))
		find("1", "")
		try(t, os.Lchown(path, other, -1))
		find("", "belongs to another user (uid 4242)")
		try(t, os.Lchown(path, 0, -1))
	}
	for _, path := range []string{dir, one} {
		try(t, os.Chmod(path, 0o775))
		find("", "other users may write to the directory")
		try(t, unix.Chmod(path, 0o1777)) // sticky
		find("1", "")
		try(t, os.Chmod(path, 0o755))
	}
	try(t, os.Chmod(one+"/key", 0o660))
	find("", "is writable by other users (mode 0660)")
	try(t, os.Chmod(one+"/key", 0o644))

	in, err := FindInput(file, -1)
	try(t, err)
	defer in.Close()
	if got := in.Directories(); len(got) != 2 || got[0] != dir || got[1] != one {
		t.Errorf("directories %q", got)
	}
	for _, want := range []string{"1", "2"} {
		if got, err := content(in); string(got) != want || err != nil {
			t.Errorf("%q, %v; want %q", got, err, want)
		}
		try(t, os.Symlink("two", data+".new"), os.Rename(data+".new", data), os.RemoveAll(one))
	}
	try(t, os.Lchown(file, other, -1))
	if got, err := content(in); err == nil || !strings.Contains(err.Error(), "belongs to another user (uid 4242)") {
		t.Errorf("%q through another user's link: %v", got, err)
	}
	try(t, os.Remove(file), unix.Mkfifo(file, 0o600))
	if _, err := content(in); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("a FIFO: %v", err)
	}
}

func content(in *InputFile) ([]byte, error) {
	f, err := in.Open()
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(f)
}

// TestReplacedDirectory: the file is looked up in the directory that was opened, even if another one has its name by
// now.
func TestReplacedDirectory(t *testing.T) {
	dir := directory(t, 0o700, -1)
	a, f, _, err := OpenAppend(filepath.Join(dir, "log"), -1)
	try(t, err)
	defer a.Close()
	defer f.Close()
	try(t, os.Rename(dir, dir+".old"), os.Mkdir(dir, 0o700), os.Rename(dir+".old/log", dir+".old/log.1"))
	g, err := a.Reopen()
	try(t, err)
	defer g.Close()
	if _, err := os.Lstat(filepath.Join(dir, "log")); err == nil {
		t.Error("the file was made in another directory")
	}
	if _, err := os.Lstat(dir + ".old/log"); err != nil {
		t.Error(err)
	}
}

// TestNewFilesAreGiven: what is new is given to the owner, who may have to open it alone at the next start.
func TestNewFilesAreGiven(t *testing.T) {
	if os.Geteuid() != 0 {
		proctest.Cannot(t, "only root can give files away")
	}
	const owner = 4343
	dir := directory(t, 0o700, -1)
	try(t, os.WriteFile(filepath.Join(dir, "old"), nil, 0o600), os.WriteFile(filepath.Join(dir, ".old.lock"), nil, 0o600))
	for _, name := range []string{"new", "old"} {
		a, f, _, err := OpenAppend(filepath.Join(dir, name), owner)
		try(t, err, f.Close(), a.Close())
		s, err := OpenStore(filepath.Join(dir, name), owner)
		try(t, err, s.Close())
	}
	d, err := OpenPrivate(filepath.Join(dir, "a", "b"), owner)
	try(t, err, d.Close())
	for name, want := range map[string]uint32{"new": owner, ".new.lock": owner, "a": owner, "a/b": owner, "old": 0, ".old.lock": 0} {
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(dir, name), &st); err != nil || st.Uid != want {
			t.Errorf("%s belongs to %d, not to %d (%v)", name, st.Uid, want, err)
		}
	}
}

// TestTorn: a file that ends without a line feed is torn.
func TestTorn(t *testing.T) {
	dir := directory(t, 0o700, -1)
	for text, want := range map[string]bool{"": false, "a": true, "a\n": false, "a\nb": true, "\n": false} {
		path := filepath.Join(dir, "f")
		try(t, os.WriteFile(path, []byte(text), 0o600))
		a, f, torn, err := OpenAppend(path, -1)
		try(t, err)
		if torn != want {
			t.Errorf("%q is torn: %t", text, torn)
		}
		f.Close()
		a.Close()
	}
}

// TestReplace: the file contains the old text or the new one, and no other file remains.
func TestReplace(t *testing.T) {
	dir := directory(t, 0o700, -1)
	s, err := OpenStore(filepath.Join(dir, "f"), -1)
	try(t, err)
	if _, err := s.Read(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file that is not there: %v", err)
	}
	for _, text := range []string{"one", "two, and longer", ""} {
		try(t, s.Write([]byte(text)))
		if got, err := s.Read(); err != nil || string(got) != text {
			t.Errorf("%q, %v", got, err)
		}
	}
	if _, err := OpenStore(filepath.Join(dir, "f"), -1); !errors.Is(err, ErrLocked) {
		t.Errorf("opened twice: %v", err)
	}
	try(t, s.Close())
	if files, err := filepath.Glob(filepath.Join(dir, "*")); err != nil || strings.Join(files, " ") != dir+"/.f.lock "+dir+"/f" {
		t.Errorf("%q, %v", files, err)
	}
	if info, err := os.Stat(filepath.Join(dir, "f")); err != nil || info.Mode() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	s, err = OpenStore(filepath.Join(dir, "f"), -1)
	try(t, err, s.Close())
}

// TestOpenPrivate: a private directory is accepted, and locked by one process.
func TestOpenPrivate(t *testing.T) {
	for _, c := range []struct {
		uid, owner int
		mode       uint32
		want       string
	}{
		{0, 0, 0o700, ""}, {5, 5, 0o700, ""},
		{5, 0, 0o700, "belongs to uid 5, not to uid 0"}, {0, 5, 0o700, "belongs to uid 0"},
		{5, 5, 0o701, "chmod 700"}, {5, 5, 0o710, "chmod 700"}, {5, 5, 0o777, "chmod 700"}, {5, 5, 0o500, "chmod 700"},
	} {
		err := privateMode(c.uid, c.owner, c.mode)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v", c, err)
		}
	}
	path := filepath.Join(t.TempDir(), "a", "b")
	d, err := OpenPrivate(path, -1)
	try(t, err)
	if _, err := OpenPrivate(path, -1); !errors.Is(err, ErrLocked) {
		t.Errorf("a second one: %v", err)
	}
	f, err := d.Create("x")
	try(t, err, f.Close(), d.Rename("x", "y"))
	for range 2 {
		f, err = d.Append("y")
		try(t, err)
		_, err = f.WriteString("a")
		try(t, err, f.Close())
	}
	if text, err := os.ReadFile(filepath.Join(path, "y")); err != nil || string(text) != "aa" {
		t.Errorf("%q, %v", text, err)
	}
	if _, err := d.Append("z"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file that is not there was opened: %v", err)
	}
	if _, err := d.Create("y"); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a file that is there was made: %v", err)
	}
	if all, err := d.List(); err != nil || len(all) != 1 || all[0].Name() != "y" {
		t.Errorf("%v, %v", all, err)
	}
	try(t, d.Close())
	d, err = OpenPrivate(path, -1)
	try(t, err, d.Close())
	// What a link leads to is made by its owner, not by us.
	link, target := filepath.Join(t.TempDir(), "link"), filepath.Join(t.TempDir(), "target")
	try(t, os.Symlink(target, link))
	if d, err := OpenPrivate(filepath.Join(link, "d"), -1); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("behind a link to nothing: %v, %v", d, err)
	}
	if _, err := os.Lstat(target); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the target of a link was made: %v", err)
	}
}
