//go:build unix

package listen

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// folderWalk goes down a path one name at a time, so that every folder and
// every link on it is judged before it is relied upon.
type folderWalk struct {
	dir   int    // the folder that has been reached
	at    string // its name, for messages
	names []string
	links int
}

// openFolder opens the folder at path, "" for the current one, if nobody but
// root and we can put anything else there.
func openFolder(path string) (dir int, err error) {
	if !strings.HasPrefix(path, "/") {
		here, err := os.Getwd()
		if err != nil {
			return -1, fmt.Errorf("cannot tell the current folder: %w; use an absolute path", err)
		}
		path = here + "/" + path // not cleaned: ".." may follow a link
	}
	w := &folderWalk{dir: unix.AT_FDCWD}
	if err := w.follow(path); err != nil {
		return -1, err
	}
	for len(w.names) > 0 {
		name := w.names[0]
		w.names = w.names[1:]
		if err := w.step(name); err != nil {
			unix.Close(w.dir)
			return -1, err
		}
	}
	return w.dir, nil
}

// follow puts the names of path in front of those still to go.
func (w *folderWalk) follow(path string) error {
	names := strings.FieldsFunc(path, func(r rune) bool { return r == '/' })
	w.names = append(names, w.names...)
	if strings.HasPrefix(path, "/") {
		return w.enter("/")
	}
	return nil
}

func (w *folderWalk) step(name string) error {
	var st unix.Stat_t
	err := unix.Fstatat(w.dir, name, &st, unix.AT_SYMLINK_NOFOLLOW)
	if err != nil || st.Mode&unix.S_IFMT != unix.S_IFLNK {
		return w.enter(name) // which says what is wrong
	}
	at := filepath.Join(w.at, name)
	if !trusted(st.Uid) {
		return fmt.Errorf("the link %s belongs to another user (uid %d), who could lead it elsewhere; use a folder of your own", at, st.Uid)
	}
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(w.dir, name, buf)
	if w.links++; err == nil && (n <= 0 || w.links > maxLinks) {
		err = unix.ELOOP
	}
	if err != nil {
		return fmt.Errorf("cannot follow the link %s: %w; name the folder that it should lead to", at, err)
	}
	return w.follow(string(buf[:n]))
}

// enter goes into a folder and judges it.
func (w *folderWalk) enter(name string) error {
	at := filepath.Join(w.at, name)
	if name == "/" {
		at = name
	}
	next, err := unix.Openat(w.dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC|searchOnly, 0)
	switch {
	case errors.Is(err, unix.ENOENT):
		return fmt.Errorf("the folder %s does not exist (%w); make it first", at, err)
	case err != nil:
		return fmt.Errorf("cannot go into the folder %s: %w; use a folder of your own", at, err)
	}
	if w.dir != unix.AT_FDCWD {
		unix.Close(w.dir)
	}
	w.dir, w.at = next, at
	return w.judge()
}

// judge refuses a folder in which somebody other than root and we could replace
// what is there. In a sticky one others may add, but not replace. In a user
// namespace that does not know root, root's folders seem to belong to the
// overflow uid 65534, as anybody's would, and are refused.
func (w *folderWalk) judge() error {
	var st unix.Stat_t
	if err := unix.Fstat(w.dir, &st); err != nil {
		return fmt.Errorf("cannot tell whose the folder %s is: %w; use a folder of your own", w.at, err)
	}
	if !trusted(st.Uid) {
		return fmt.Errorf("the folder %s belongs to another user (uid %d), who could replace the socket; use a folder of your own", w.at, st.Uid)
	}
	if st.Mode&0o022 != 0 && st.Mode&unix.S_ISVTX == 0 {
		return fmt.Errorf("others may write to the folder %s (mode %04o) and could replace the socket; forbid it (chmod go-w), or use a folder of your own", w.at, st.Mode&0o7777)
	}
	return nil
}

func trusted(uid uint32) bool { return uid == 0 || uid == uint32(os.Geteuid()) }
