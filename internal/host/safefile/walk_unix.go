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

// maxLinks is the number of symbolic links that are followed, the same as Linux's (path_resolution(7)). Without a limit
// two links to each other would never end.
const maxLinks = 40

// OpenTrusted opens the directory at path, under the policy socket; "" is the current directory. The caller must close
// it.
func OpenTrusted(path string) (*Dir, error) { return socket.open(path, -1) }

// open opens the directory at path. New directories are given to owner, a uid, unless it is -1.
func (p policy) open(path string, owner int) (*Dir, error) {
	d, _, err := p.walk(path, owner, 0, false)
	return d, err
}

// parent opens the directory of path's last element, and returns that element, which need not exist. If it is a link
// and follow is set, directory and name are those of its target. The caller must close the directory. Every later use
// of the name is relative to it, and so concerns the directory that was checked.
func (p policy) parent(path string, owner int, follow bool) (d *Dir, name string, err error) {
	return p.walk(path, owner, 1, follow)
}

// walk is the state of resolving a path. It does what the kernel does in one call, because the kernel does not consider
// who has made a link or a directory, unless fs.protected_symlinks is 1, and only in sticky directories then.
// openat2(2) (Linux 5.6) can refuse links altogether, which is too much: /var/run is one on most systems.
type walk struct {
	policy
	owner int
	last  bool        // follow a link in place of the last element too
	dir   *Dir        // the current directory; nil before the first
	stat  unix.Stat_t // dir's status
	names []string    // the remaining elements
	own   int         // number of names, at the end, that are not from a link's target
	links int         // links followed so far
}

// walk opens the directory at path without its last keep elements (0 or 1), and returns those. A path without a last
// element, such as "/", is EISDIR if one is to be kept. After an error nothing stays open.
func (p policy) walk(path string, owner, keep int, follow bool) (*Dir, string, error) {
	w := &walk{policy: p, owner: owner, last: follow}
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

// run resolves names until keep are left. A link in place of the last name is followed only if w.last is set, since it
// decides which file is opened. If directories must be trusted it makes a relative path absolute, because those above
// the current one must be, too; it does not clean the path, since ".." may follow a link.
func (w *walk) run(path string, keep int) error {
	if w.trusted && !strings.HasPrefix(path, "/") {
		here, err := os.Getwd()
		if err != nil {
			return fmt.Errorf("cannot find the current directory: %w; use an absolute path", err)
		}
		path = here + "/" + path
	}
	// Names from a link's target are before those of path, so that the last own names are path's. Only there
	// directories are made, unless w.last is set: the target of a link is where its owner has prepared it.
	err := w.insert(path)
	w.own = len(w.names)
	for err == nil && (len(w.names) > keep || len(w.names) > 0 && w.last) {
		name, target := w.names[0], ""
		if target, err = w.link(name); err != nil || target == "" && len(w.names) == keep {
			return err
		}
		linked := len(w.names) > w.own
		w.names = w.names[1:]
		w.own = min(w.own, len(w.names))
		if target != "" {
			err = w.insert(target)
		} else {
			err = w.enter(name, w.makeDirs != 0 && (w.last || !linked))
		}
	}
	return err
}

// insert inserts the elements of path before the remaining names, and starts at the root if path is absolute. The root
// is this process's, as for the kernel (chroot(2)).
func (w *walk) insert(path string) error {
	// Repeated slashes are one (path_resolution(7)). A slash at the end of a file's path is ignored, unlike by the
	// kernel.
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

// enter opens a directory, which must not be a link (O_NOFOLLOW), and may create it if it is missing. The directory
// before it is closed: at most two descriptors are open, however long the path. ".." needs no care, since it is looked
// up in an open directory like any other name.
func (w *walk) enter(name string, mayMake bool) error {
	// O_NOFOLLOW, because another user may have replaced the name by a link since link checked it.
	const flags = searchOnly | unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC
	from, at, made := unix.AT_FDCWD, name, false
	if w.dir != nil {
		from, at = w.dir.fd, filepath.Join(w.dir.path, name)
	}
	fd, err := unix.Openat(from, name, flags, 0)
	// EEXIST means that another process has created the directory meanwhile, which is then checked like any other.
	if mayMake && errors.Is(err, unix.ENOENT) {
		if err = unix.Mkdirat(from, name, w.makeDirs); err == nil || errors.Is(err, unix.EEXIST) {
			made = err == nil
			fd, err = unix.Openat(from, name, flags, 0)
		}
	}
	// Where directories must be trusted, errors have a hint; others are for callers that look at the cause.
	switch {
	case err != nil && !w.trusted:
		return &fs.PathError{Op: "open", Path: at, Err: err}
	case errors.Is(err, unix.ENOENT):
		return fmt.Errorf("the directory %s does not exist (%w); make it first", at, err)
	case err != nil:
		return fmt.Errorf("cannot search the directory %s: %w; use a directory of your own", at, err)
	case w.dir != nil:
		w.dir.Close()
	}
	// Only a directory that this process has made is given to another user: one that was there may have a purpose.
	w.dir = &Dir{fd, at, w.owner}
	if err := w.check(); err != nil || !made || w.owner < 0 {
		return err
	}
	return w.dir.chown(w.owner)
}

// check returns an error, if directories must be trusted, for one in which users other than root, the effective user
// and w.owner could replace entries. In a sticky directory others may add entries but not replace them (chmod(2),
// S_ISVTX). In a user namespace that does not map root, root's directories appear to belong to the overflow uid 65534,
// like those of any unmapped user, and are refused.
func (w *walk) check() error {
	switch err := unix.Fstat(w.dir.fd, &w.stat); {
	case err != nil:
		return fmt.Errorf("cannot find the owner of the directory %s: %w; use a directory of your own", w.dir.path, err)
	case !w.trusted:
	case !trusted(w.stat.Uid, w.owner):
		return fmt.Errorf("the directory %s belongs to another user (uid %d), who could replace its files; "+
			"use a directory of your own", w.dir.path, w.stat.Uid)
	case w.stat.Mode&0o022 != 0 && w.stat.Mode&unix.S_ISVTX == 0:
		return fmt.Errorf("other users may write to the directory %s (mode %04o) and could replace its files; "+
			"run chmod go-w, or use a directory of your own", w.dir.path, w.stat.Mode&0o7777)
	}
	return nil
}

// link returns the target of name if it is a link that may be followed, and "" if it is not a link.
func (w *walk) link(name string) (target string, err error) {
	at := filepath.Join(w.dir.path, name)
	st, target, err := readLink(w.dir.fd, name)
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFLNK:
		return "", nil // opening it returns the error
	case trusted(st.Uid, -1) || w.trusted && trusted(st.Uid, w.owner):
	case w.trusted:
		return "", fmt.Errorf("the link %s belongs to another user (uid %d), who could redirect it; "+
			"use a directory of your own", at, st.Uid)
	case shared(&w.stat) && st.Uid != w.stat.Uid:
		return "", planted("link", at, st.Uid)
	}
	if w.links++; err == nil && (target == "" || w.links > maxLinks) {
		err = unix.ELOOP
	}
	if err != nil {
		return "", fmt.Errorf("cannot follow the link %s: %w; name its target instead", at, err)
	}
	return target, nil
}

// readTarget returns the target of the link name. It is at most PATH_MAX bytes long; readlink(2) cuts a longer one
// without an error.
func readTarget(dir int, name string) (string, error) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(dir, name, buf)
	return string(buf[:max(n, 0)]), err
}
