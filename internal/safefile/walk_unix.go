//go:build unix

package safefile

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

// OpenDir opens the directory at path, "" for the current one.
func OpenDir(path string, how Walk) (*Dir, error) {
	w := &walk{how: how, whole: path, fd: -1}
	for err := w.begin(); ; err = w.step() {
		if err != nil {
			w.close()
			return nil, err
		}
		if len(w.names) == 0 {
			return &Dir{w.fd, w.at}, nil
		}
	}
}

// Parent opens the directory of path's last name, and returns that name, which need not be there. If it is a link that
// is to be followed, directory and name are those that it leads to.
func Parent(path string, how Walk) (d *Dir, name string, err error) {
	w := &walk{how: how, whole: path, fd: -1}
	for err = w.begin(); err == nil; err = w.step() {
		if len(w.names) == 0 {
			err = w.fail(unix.EISDIR)
			break
		}
		if len(w.names) == 1 && !(how.Follow && w.isLink(w.names[0])) {
			return &Dir{w.fd, w.at}, w.names[0], nil
		}
	}
	w.close()
	return nil, "", err
}

// walk is a path that is being walked.
type walk struct {
	how   Walk
	whole string   // the path, for messages
	fd    int      // the directory that has been reached; -1 before the first
	at    string   // its name, for messages
	names []string // still to go
	links int      // followed so far
}

// begin opens the first directory. With Trusted a relative path is made absolute, but not cleaned, for ".." may follow a
// link: the directories above the current one matter, too.
func (w *walk) begin() error {
	path := w.whole
	if w.how.Trusted && !strings.HasPrefix(path, "/") {
		here, err := os.Getwd()
		if err != nil {
			return fmt.Errorf("cannot find the current directory: %w; use an absolute path", err)
		}
		path = here + "/" + path
	}
	return w.follow(path)
}

// follow puts the names of path in front of those still to go.
func (w *walk) follow(path string) error {
	names := strings.FieldsFunc(path, func(r rune) bool { return r == '/' })
	w.names = append(names, w.names...)
	switch {
	case strings.HasPrefix(path, "/"):
		return w.enter("/")
	case w.fd < 0:
		return w.enter(".")
	}
	return nil
}

// step goes on by one name: into a directory, or to where a link leads.
func (w *walk) step() error {
	name := w.names[0]
	target, err := w.link(name)
	if err != nil {
		return err
	}
	w.names = w.names[1:]
	if target != "" {
		return w.follow(target)
	}
	return w.enter(name)
}

// enter goes into a directory, which is no link.
func (w *walk) enter(name string) error {
	const flags = searchOnly | unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC
	from, at := w.fd, filepath.Join(w.at, name)
	if from < 0 {
		from = unix.AT_FDCWD
	}
	if name == "/" {
		at = name
	}
	next, err := unix.Openat(from, name, flags, 0)
	if w.how.Make && errors.Is(err, unix.ENOENT) {
		if err = unix.Mkdirat(from, name, 0o755); err == nil || errors.Is(err, unix.EEXIST) {
			next, err = unix.Openat(from, name, flags, 0)
		}
	}
	switch {
	case err == nil:
		w.close()
		w.fd, w.at = next, at
		return w.check()
	case !w.how.Trusted:
		return w.fail(err)
	case errors.Is(err, unix.ENOENT):
		return fmt.Errorf("the directory %s does not exist (%w); make it first", at, err)
	}
	return fmt.Errorf("cannot go into the directory %s: %w; use a directory of your own", at, err)
}

// check refuses, with Trusted, a directory in which somebody other than root and we could replace what is there. In a
// sticky one others may add, but not replace. In a user namespace that does not map root, root's directories appear to
// belong to the overflow uid 65534, as anybody's would, and are refused.
func (w *walk) check() error {
	if !w.how.Trusted {
		return nil
	}
	var st unix.Stat_t
	if err := unix.Fstat(w.fd, &st); err != nil {
		return fmt.Errorf("cannot find the owner of the directory %s: %w; use a directory of your own", w.at, err)
	}
	if !trusted(st.Uid) {
		return fmt.Errorf("the directory %s belongs to another user (uid %d), who could replace what is there; use a directory of your own", w.at, st.Uid)
	}
	if st.Mode&0o022 != 0 && st.Mode&unix.S_ISVTX == 0 {
		return fmt.Errorf("others may write to the directory %s (mode %04o) and could replace what is there; forbid it (chmod go-w), "+
			"or use a directory of your own", w.at, st.Mode&0o7777)
	}
	return nil
}

func (w *walk) isLink(name string) bool {
	var st unix.Stat_t
	return unix.Fstatat(w.fd, name, &st, unix.AT_SYMLINK_NOFOLLOW) == nil && st.Mode&unix.S_IFMT == unix.S_IFLNK
}

// link returns the target of name if it is a link that may be followed, and "" if it is no link.
func (w *walk) link(name string) (target string, err error) {
	var before, after, dir unix.Stat_t
	err = unix.Fstatat(w.fd, name, &before, unix.AT_SYMLINK_NOFOLLOW)
	if err != nil || before.Mode&unix.S_IFMT != unix.S_IFLNK {
		return "", nil // opening it will say what is wrong
	}
	at := filepath.Join(w.at, name)
	switch err := unix.Fstat(w.fd, &dir); {
	case err != nil:
		return "", w.fail(err)
	case trusted(before.Uid):
	case w.how.Trusted:
		return "", fmt.Errorf("the link %s belongs to another user (uid %d), who could lead it elsewhere; use a directory of your own", at, before.Uid)
	case shared(&dir) && before.Uid != dir.Uid:
		return "", planted("link", at, before.Uid)
	}
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(w.fd, name, buf)
	if w.links++; err == nil && (n <= 0 || w.links > maxLinks) {
		err = unix.ELOOP
	}
	switch {
	case err != nil && w.how.Trusted:
		return "", fmt.Errorf("cannot follow the link %s: %w; name the directory that it should lead to", at, err)
	case err != nil:
		return "", w.fail(err)
	case unix.Fstatat(w.fd, name, &after, unix.AT_SYMLINK_NOFOLLOW) != nil || !Same(&before, &after) || after.Uid != before.Uid:
		return "", fmt.Errorf("the link %s changed while it was followed", at)
	}
	return string(buf[:n]), nil
}

func (w *walk) close() {
	if w.fd >= 0 {
		unix.Close(w.fd)
		w.fd = -1
	}
}

func (w *walk) fail(err error) error { return &fs.PathError{Op: "open", Path: w.whole, Err: err} }
