package dump

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"
)

// stored is a finished dump.
type stored struct {
	name     string
	size     int64 // in whole blocks
	finished time.Time
}

// part returns the name of a dump until it is finished, which no tool considers a dump.
func part(name string) string { return "." + name + ".part" }

// isDump reports whether a file of this name is a finished dump.
func isDump(name string) bool {
	var sequence, ms int64
	var kind string
	fmt.Sscanf(name, "%d-%d-%s", &sequence, &ms, &kind)
	return sequence > 0 && name == fmt.Sprintf("%06d-%d-%s", sequence, ms, kind) && (kind == "request.json" || kind == "response.json")
}

// blocks returns the size of a file in whole blocks.
func blocks(size int64) int64 { return (size + 4095) &^ 4095 }

// load finds the dumps of earlier runs, and removes unfinished ones and the oldest beyond the limit.
func (d *Dir) load() error {
	entries, err := d.files.List()
	if err != nil {
		return err
	}
	for _, e := range entries {
		name := strings.TrimSuffix(strings.TrimPrefix(e.Name(), "."), ".part")
		info, err := e.Info()
		switch {
		case err != nil || !isDump(name) || !e.Type().IsRegular():
		case e.Name() == name:
			d.finished = append(d.finished, stored{name, blocks(info.Size()), info.ModTime()})
			d.used += blocks(info.Size())
		case e.Name() == part(name):
			err = d.files.Remove(e.Name())
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // another program may have removed it
			return err
		}
	}
	slices.SortFunc(d.finished, func(a, b stored) int { return a.finished.Compare(b.finished) })
	return d.reserve(0)
}

// reserve takes n bytes of the limit for an unfinished dump, and removes the oldest finished ones to make space. After
// an error none are taken.
func (d *Dir) reserve(n int64) error {
	for d.used+n > d.max {
		if len(d.finished) == 0 {
			return errors.New("the unfinished dumps reach the directory's limit")
		}
		oldest := d.finished[0]
		if err := d.files.Remove(oldest.name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("cannot remove the oldest dump %s: %w", oldest.name, err)
		}
		d.used -= oldest.size
		d.finished = d.finished[1:]
	}
	d.used += n
	return nil
}
