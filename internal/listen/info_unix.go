//go:build unix

package listen

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// maxLinks is how many symbolic links are followed, as many as Linux does.
const maxLinks = 40

// infoPath is a path that is walked one name at a time, so that every link on
// it, to a folder as well as to the file, is judged before it is followed.
type infoPath struct {
	whole string   // for messages
	dir   int      // the folder that has been reached
	at    string   // its name, for messages
	names []string // still to go
	links int      // followed so far
}

// openInfo opens path for writing, and for reading if that is possible, and
// makes the folders that are missing.
func openInfo(path string) (file, read *os.File, err error) {
	p := &infoPath{whole: path, dir: -1}
	if err := p.follow(path); err != nil {
		return nil, nil, err
	}
	defer func() { unix.Close(p.dir) }()
	for {
		name := p.names[0]
		target, err := p.link(name)
		switch {
		case err != nil:
			return nil, nil, err
		case target != "":
			p.names = p.names[1:]
			err = p.follow(target)
		case len(p.names) == 1:
			if file, err = p.file(name); err == nil {
				read = p.again(name, file)
			}
			return file, read, err
		default:
			p.names = p.names[1:]
			err = p.enter(name)
		}
		if err != nil {
			return nil, nil, err
		}
	}
}

// again opens a regular file for reading; nil if it cannot, or is another one by
// now.
func (p *infoPath) again(name string, file *os.File) *os.File {
	a, err := file.Stat()
	if err != nil || !a.Mode().IsRegular() {
		return nil
	}
	fd, err := unix.Openat(p.dir, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOCTTY, 0)
	if err != nil {
		return nil
	}
	read := os.NewFile(uintptr(fd), p.whole)
	if b, err := read.Stat(); err != nil || !os.SameFile(a, b) {
		read.Close()
		return nil
	}
	return read
}

// follow puts the names of path in front of those still to go.
func (p *infoPath) follow(path string) error {
	var names []string
	for name := range strings.SplitSeq(path, "/") {
		if name != "" {
			names = append(names, name)
		}
	}
	p.names = append(names, p.names...)
	if len(p.names) == 0 {
		return p.fail(unix.EISDIR)
	}
	switch {
	case strings.HasPrefix(path, "/"):
		return p.enter("/")
	case p.dir < 0:
		return p.enter(".")
	}
	return nil
}

// enter goes into a folder, which is made if it is missing.
func (p *infoPath) enter(name string) error {
	const flags = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC
	if p.dir < 0 { // the first
		p.dir = unix.AT_FDCWD
	}
	next, err := unix.Openat(p.dir, name, flags|searchOnly, 0)
	if errors.Is(err, unix.ENOENT) {
		if err = unix.Mkdirat(p.dir, name, 0o755); err == nil || errors.Is(err, unix.EEXIST) {
			next, err = unix.Openat(p.dir, name, flags|searchOnly, 0)
		}
	}
	if err != nil {
		return p.fail(err)
	}
	unix.Close(p.dir)
	p.dir, p.at = next, filepath.Join(p.at, name)
	if name == "/" {
		p.at = name
	}
	return nil
}

// link returns where name leads to if it is a link that may be followed.
func (p *infoPath) link(name string) (target string, err error) {
	var before, after unix.Stat_t
	if err := unix.Fstatat(p.dir, name, &before, unix.AT_SYMLINK_NOFOLLOW); err != nil || before.Mode&unix.S_IFMT != unix.S_IFLNK {
		return "", nil // opening it will say what is wrong
	}
	if err := p.judge(name, "link", before.Uid); err != nil {
		return "", err
	}
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(p.dir, name, buf)
	if err != nil {
		return "", p.fail(err)
	}
	err = unix.Fstatat(p.dir, name, &after, unix.AT_SYMLINK_NOFOLLOW)
	if err != nil || after.Ino != before.Ino || after.Uid != before.Uid {
		return "", fmt.Errorf("the link %s changed while it was followed", filepath.Join(p.at, name))
	}
	if p.links++; p.links > maxLinks || n == 0 {
		return "", p.fail(unix.ELOOP)
	}
	return string(buf[:n]), nil
}

// file opens the last name. It truncates only what was found to be ours to
// write, and does not wait for a FIFO's reader.
func (p *infoPath) file(name string) (*os.File, error) {
	fd, err := unix.Openat(p.dir, name, unix.O_WRONLY|unix.O_CREAT|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOCTTY, 0o666)
	if err != nil {
		return nil, p.fail(err)
	}
	var st unix.Stat_t
	if err = unix.Fstat(fd, &st); err == nil {
		err = p.judge(name, "file", st.Uid)
	}
	if err == nil && st.Mode&unix.S_IFMT == unix.S_IFREG {
		err = unix.Ftruncate(fd, 0)
	}
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), p.whole), nil
}

// judge refuses what another user has put into a folder where everybody may:
// the rule of protected_symlinks and protected_regular (proc_sys_fs(5)), which
// is not switched on everywhere. root and the folder's owner are trusted.
func (p *infoPath) judge(name, what string, owner uint32) error {
	var dir unix.Stat_t
	if err := unix.Fstat(p.dir, &dir); err != nil {
		return p.fail(err)
	}
	shared := dir.Mode&unix.S_ISVTX != 0 && dir.Mode&0o022 != 0
	if !shared || owner == uint32(os.Geteuid()) || owner == 0 || owner == dir.Uid {
		return nil
	}
	return fmt.Errorf("the %s %s belongs to another user (uid %d) and lies in a folder that everybody may write to; use a folder of your own", what, filepath.Join(p.at, name), owner)
}

func (p *infoPath) fail(err error) error { return &fs.PathError{Op: "open", Path: p.whole, Err: err} }
