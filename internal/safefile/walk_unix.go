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
	d, _, err := how.open(path, 0)
	return d, err
}

// Parent opens the directory of path's last name, and returns that name, which need not be there. If it is a link that
// is to be followed, directory and name are those that it leads to.
func Parent(path string, how Walk) (d *Dir, name string, err error) { return how.open(path, 1) }

// walk is a path that is being walked.
type walk struct {
	Walk
	dir   *Dir        // the directory that has been reached; nil before the first
	stat  unix.Stat_t // of dir
	names []string    // still to go
	own   int         // how many of names, at their end, are not a link's
	links int         // followed so far
}

// open opens the directory at path, less its last name if keep is 1 (else 0), which it returns.
func (how Walk) open(path string, keep int) (*Dir, string, error) {
	w := &walk{Walk: how}
	err := w.run(path, keep)
	switch {
	case err == nil && len(w.names) == keep:
		return w.dir, strings.Join(w.names, ""), nil
	case err == nil:
		err = &fs.PathError{Op: "open", Path: path, Err: unix.EISDIR}
	}
	if w.dir != nil {
		w.dir.Close()
	}
	return nil, "", err
}

// run walks until keep names are left. With Trusted a relative path is made absolute, but not cleaned, for ".." may
// follow a link: the directories above the current one matter, too.
func (w *walk) run(path string, keep int) error {
	if w.Trusted && !strings.HasPrefix(path, "/") {
		here, err := os.Getwd()
		if err != nil {
			return fmt.Errorf("cannot find the current directory: %w; use an absolute path", err)
		}
		path = here + "/" + path
	}
	err := w.follow(path)
	w.own = len(w.names)
	for err == nil && (len(w.names) > keep || len(w.names) > 0 && w.Follow) {
		name, target := w.names[0], ""
		if target, err = w.link(name); err != nil || target == "" && len(w.names) == keep {
			return err
		}
		linked := len(w.names) > w.own
		w.names = w.names[1:]
		w.own = min(w.own, len(w.names))
		if target != "" {
			err = w.follow(target)
		} else {
			err = w.enter(name, w.Make != 0 && (w.Follow || !linked))
		}
	}
	return err
}

// follow puts the names of path in front of those still to go.
func (w *walk) follow(path string) error {
	names := strings.FieldsFunc(path, func(r rune) bool { return r == '/' })
	w.names = append(names, w.names...)
	switch {
	case strings.HasPrefix(path, "/"):
		if w.dir != nil {
			w.dir.Close()
			w.dir = nil
		}
		return w.enter("/", false)
	case w.dir == nil:
		return w.enter(".", false)
	}
	return nil
}

// enter goes into a directory, which is no link, and may be made if it is missing: where a link leads, by Follow only.
func (w *walk) enter(name string, mayMake bool) error {
	const flags = searchOnly | unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC
	from, at, made := unix.AT_FDCWD, name, false
	if w.dir != nil {
		from, at = w.dir.fd, filepath.Join(w.dir.path, name)
	}
	fd, err := unix.Openat(from, name, flags, 0)
	if mayMake && errors.Is(err, unix.ENOENT) {
		if err = unix.Mkdirat(from, name, w.Make); err == nil || errors.Is(err, unix.EEXIST) {
			made = err == nil
			fd, err = unix.Openat(from, name, flags, 0)
		}
	}
	switch {
	case err != nil && !w.Trusted:
		return &fs.PathError{Op: "open", Path: at, Err: err}
	case errors.Is(err, unix.ENOENT):
		return fmt.Errorf("the directory %s does not exist (%w); make it first", at, err)
	case err != nil:
		return fmt.Errorf("cannot go into the directory %s: %w; use a directory of your own", at, err)
	case w.dir != nil:
		w.dir.Close()
	}
	w.dir = &Dir{fd, at, w.Owners}
	if err := w.check(); err != nil || !made || w.Owner < 0 {
		return err
	}
	return w.dir.chown(w.Owner)
}

// check refuses, with Trusted, a directory in which others than root and we could replace what is there. In a sticky
// one others may add, but not replace. In a user namespace that does not map root, root's directories appear to belong
// to the overflow uid 65534, as anybody's would, and are refused.
func (w *walk) check() error {
	switch err := unix.Fstat(w.dir.fd, &w.stat); {
	case err != nil:
		return fmt.Errorf("cannot find the owner of the directory %s: %w; use a directory of your own", w.dir.path, err)
	case !w.Trusted:
	case !trusted(w.stat.Uid):
		return fmt.Errorf("the directory %s belongs to another user (uid %d), who could replace what is there; "+
			"use a directory of your own", w.dir.path, w.stat.Uid)
	case w.stat.Mode&0o022 != 0 && w.stat.Mode&unix.S_ISVTX == 0:
		return fmt.Errorf("others may write to the directory %s (mode %04o) and could replace what is there; "+
			"forbid it (chmod go-w), or use a directory of your own", w.dir.path, w.stat.Mode&0o7777)
	}
	return nil
}

// link returns the target of name if it is a link that may be followed, and "" if it is no link.
func (w *walk) link(name string) (target string, err error) {
	var before, after unix.Stat_t
	err = unix.Fstatat(w.dir.fd, name, &before, unix.AT_SYMLINK_NOFOLLOW)
	if err != nil || before.Mode&unix.S_IFMT != unix.S_IFLNK {
		return "", nil // opening it will show what is wrong
	}
	at := filepath.Join(w.dir.path, name)
	switch {
	case trusted(before.Uid):
	case w.Trusted:
		return "", fmt.Errorf("the link %s belongs to another user (uid %d), who could lead it elsewhere; "+
			"use a directory of your own", at, before.Uid)
	case shared(&w.stat) && before.Uid != w.stat.Uid:
		return "", planted("link", at, before.Uid)
	}
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(w.dir.fd, name, buf)
	if w.links++; err == nil && (n <= 0 || w.links > maxLinks) {
		err = unix.ELOOP
	}
	if err != nil {
		return "", fmt.Errorf("cannot follow the link %s: %w; name the directory that it should lead to", at, err)
	}
	err = unix.Fstatat(w.dir.fd, name, &after, unix.AT_SYMLINK_NOFOLLOW)
	if err != nil || !Same(&before, &after) || after.Uid != before.Uid {
		return "", fmt.Errorf("the link %s changed while it was followed", at)
	}
	return string(buf[:n]), nil
}
