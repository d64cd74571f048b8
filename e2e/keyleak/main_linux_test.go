package keyleak

import (
	"crypto/rand"
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/proctest"
)

func TestMain(m *testing.M) {
	if how := os.Getenv(wrapEnv); how != "" {
		wrap(how)
	}
	proctest.Main(m, nil)
}

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
