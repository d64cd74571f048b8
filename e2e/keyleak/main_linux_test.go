package keyleak

import (
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/responses-api-proxy/responses-api-proxy/internal/proctest"
)

// programs is the folder with what TestMain has built.
var programs string

func TestMain(m *testing.M) {
	if how := os.Getenv(wrapEnv); how != "" {
		wrap(how)
	}
	os.Exit(buildAndRun(m))
}

func buildAndRun(m *testing.M) int {
	var err error
	if programs, err = os.MkdirTemp("", "secrecy"); err != nil {
		panic(err)
	}
	defer os.RemoveAll(programs)
	build := exec.Command("go", "build", "-o", programs+"/", "../../cmd/responses-api-proxy", "./testdata/probe", "./testdata/scan")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "building: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

func program(name string) string { return filepath.Join(programs, name) }

// key is another one in each run, of the length of OpenAI's.
var key = newKey()

func newKey() []byte {
	const prefix, length = "sk-proj-", 164
	return []byte((prefix + rand.Text() + rand.Text() + rand.Text() + rand.Text() + rand.Text() + rand.Text() + rand.Text())[:length])
}

// needRoot ends a test that proves nothing without the means to look.
func needRoot(t *testing.T) {
	t.Helper()
	proctest.NeedRoot(t, "read another process's memory")
	fd, err := unix.MemfdSecret(unix.O_CLOEXEC)
	if err != nil {
		proctest.Cannot(t, fmt.Sprintf("memfd_secret(2): %v", err))
	}
	unix.Close(fd)
}
