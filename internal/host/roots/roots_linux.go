package roots

import (
	"bytes"
	"cmp"
	"crypto/x509"
	"errors"
	"io/fs"
	"os"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Where crypto/x509 looks: in the first of the files that can be read, and in all directories.
var (
	files = []string{
		"/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem", "/etc/pki/tls/cacert.pem",
		"/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", "/etc/ssl/cert.pem",
	}
	directories = []string{"/etc/ssl/certs", "/etc/pki/tls/certs"}
)

// readSystem reads once in a process what x509.SystemCertPool would. parse returns what that would, too; but having no
// certificate is an error. A goroutine parses what is read, to use a second CPU; parse waits for it.
var readSystem = sync.OnceValues(func() (parse func() *x509.CertPool, err error) {
	files, directories := files, directories
	if file := os.Getenv("SSL_CERT_FILE"); file != "" {
		files = []string{file}
	}
	if list := os.Getenv("SSL_CERT_DIR"); list != "" {
		directories = strings.Split(list, ":")
	}
	texts := texts{certs: make(chan []byte, 1<<10), seen: map[string]bool{}, buf: make([]byte, 1<<18)}
	defer close(texts.certs)
	pool, parsed := x509.NewCertPool(), make(chan struct{})
	go func() {
		defer close(parsed)
		for cert := range texts.certs {
			pool.AppendCertsFromPEM(cert)
		}
	}()
	for _, name := range files {
		if texts.readFile(unix.AT_FDCWD, name) {
			break
		}
	}
	for _, dir := range directories {
		texts.readDirectory(dir)
	}
	if len(texts.seen) == 0 {
		return nil, cmp.Or(texts.err, errors.New("there are none"))
	}
	return func() *x509.CertPool {
		<-parsed
		return pool
	}, nil
})

// texts are certificates in PEM.
type texts struct {
	certs chan []byte
	seen  map[string]bool
	buf   []byte // for read
	err   error  // the first one, but that a file does not exist
}

// readFile sends what is in a file, and reports whether it could be read. A distribution has each certificate in a file
// of its own and in one with all: it is sent once, to be parsed once.
func (t *texts) readFile(dir int, name string) bool {
	text, err := t.read(dir, name)
	t.note(err)
	for part := range bytes.SplitAfterSeq(text, []byte("-----END CERTIFICATE-----")) {
		if i := bytes.Index(part, []byte("-----BEGIN CERTIFICATE-----")); i >= 0 && !t.seen[string(part[i:])] {
			t.seen[string(part[i:])] = true
			t.certs <- part[i:]
		}
	}
	return err == nil
}

// readDirectory sends what is in the files of a directory. Links to others of them are skipped.
func (t *texts) readDirectory(name string) {
	entries, err := os.ReadDir(name)
	t.note(err)
	dir, err := unix.Open(name, unix.O_PATH|unix.O_CLOEXEC, 0)
	t.note(err)
	defer unix.Close(dir)
	for _, e := range entries {
		if e.Type()&fs.ModeSymlink != 0 {
			n, err := unix.Readlinkat(dir, e.Name(), t.buf[:unix.PathMax])
			if err == nil && bytes.IndexByte(t.buf[:n], '/') < 0 {
				continue
			}
		}
		t.readFile(dir, e.Name())
	}
}

// read returns the content of a file in dir. There are hundreds, for which os.ReadFile makes twice the system calls.
func (t *texts) read(dir int, name string) ([]byte, error) {
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	for err == unix.EINTR {
		fd, err = unix.Openat(dir, name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	}
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	for size := 0; ; {
		n, err := unix.Read(fd, t.buf[size:])
		if err == unix.EINTR {
			continue
		}
		if n <= 0 {
			return bytes.Clone(t.buf[:size]), err
		}
		if size += n; size == len(t.buf) {
			t.buf = append(t.buf, t.buf...)
		}
	}
}

func (t *texts) note(err error) {
	if !errors.Is(err, fs.ErrNotExist) {
		t.err = cmp.Or(t.err, err)
	}
}
