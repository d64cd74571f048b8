//go:build unix

package listen

import (
	"os"
	"path/filepath"
	"testing"
)

// TestInfoIsRemoved: Remove removes its own file and leaves any other. In a directory that is not writable it truncates
// the file: server_info_prepared_by_root.txtar.
func TestInfoIsRemoved(t *testing.T) {
	for _, c := range []struct {
		what  string
		after func(t *testing.T, path string) // what happens before Remove
		want  string                          // the file's content afterwards; "-" if there is none
	}{
		{"as it was written", func(*testing.T, string) {}, "-"},
		{"gone already", func(t *testing.T, path string) { try(t, os.Remove(path)) }, "-"},
		{"written by another proxy", func(t *testing.T, path string) { try(t, writeInfo(path, 1, 2)) }, `{"port":1,"pid":2}` + "\n"},
		{"another file in its place", func(t *testing.T, path string) {
			try(t, os.Remove(path))
			try(t, os.WriteFile(path, []byte(`{"port":7,"pid":8}`+"\n"), 0o600))
		}, `{"port":7,"pid":8}` + "\n"},
		{"a link in its place", func(t *testing.T, path string) {
			try(t, os.Rename(path, path+".moved"))
			try(t, os.Symlink(path+".moved", path))
		}, ""}, // truncated: the link's target is still ours
	} {
		t.Run(c.what, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "info.json")
			i, err := PrepareInfo(path)
			try(t, err)
			try(t, i.Write(7, 8))
			c.after(t, path)
			i.Remove()
			got, err := os.ReadFile(path)
			if os.IsNotExist(err) {
				got, err = []byte("-"), nil
			}
			if err != nil || string(got) != c.want {
				t.Errorf("it holds %q, want %q (%v)", got, c.want, err)
			}
		})
	}
}

// writeInfo writes the file and keeps it.
func writeInfo(path string, port, pid int) error {
	i, err := PrepareInfo(path)
	if err != nil {
		return err
	}
	defer i.file.Close()
	if i.read != nil {
		defer i.read.Close()
	}
	return i.Write(port, pid)
}

func try(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
