package tlsrecord

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"reflect"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/memscan"
)

const soon = 10 * time.Second

// certificate returns one for "test", and a pool with its issuer.
func certificate() (tls.Certificate, *x509.CertPool) {
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{"test"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der := must(x509.CreateCertificate(rand.Reader, template, template, key.Public(), key))
	pool := x509.NewCertPool()
	pool.AddCert(must(x509.ParseCertificate(der)))
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}

// dial returns both ends of a TCP connection; the first counts what passes.
func dial(t *testing.T) (*watched, net.Conn) {
	t.Helper()
	l := must(net.Listen("tcp4", "127.0.0.1:0"))
	defer l.Close()
	a := must(net.Dial("tcp4", l.Addr().String()))
	b := must(l.Accept())
	t.Cleanup(func() { a.Close(); b.Close() })
	a.SetDeadline(time.Now().Add(soon))
	b.SetDeadline(time.Now().Add(soon))
	return &watched{Conn: a}, b
}

// watched is a connection that counts the bytes that are read and written.
type watched struct {
	net.Conn
	read, written int
}

func (w *watched) Write(p []byte) (int, error) {
	n, err := w.Conn.Write(p)
	w.written += n
	return n, err
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.Conn.Read(p)
	w.read += n
	return n, err
}

// receive reads from c until the session returns data.
func receive(c io.Reader, s Layer) ([]byte, error) {
	for {
		record := make([]byte, HeaderSize, MaxRecord)
		if _, err := io.ReadFull(c, record); err != nil {
			return nil, errors.Join(io.ErrUnexpectedEOF, err)
		}
		n, err := s.Size(record)
		if err != nil {
			return nil, err
		}
		record = record[:n]
		if _, err := io.ReadFull(c, record[HeaderSize:]); err != nil {
			return nil, err
		}
		if data, err := s.Open(record); len(data) > 0 || err != nil {
			return data, err
		}
	}
}

// TestHandshake uses crypto/tls's server, which with TLS 1.3 sends data together with the end of the handshake: none of
// it is lost.
func TestHandshake(t *testing.T) {
	cert, roots := certificate()
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		ours, theirs := dial(t)
		served := make(chan error, 1)
		go func() {
			c := tls.Server(theirs, &tls.Config{Certificates: []tls.Certificate{cert}})
			served <- func() error {
				if _, err := c.Write([]byte("first")); err != nil { // performs the handshake
					return err
				}
				echo, err := io.ReadAll(c)
				if err != nil {
					return err
				}
				if _, err := c.Write(echo); err != nil {
					return err
				}
				return c.Close()
			}()
		}()
		l, err := Handshake(t.Context(), ours, &tls.Config{RootCAs: roots, ServerName: "test", MinVersion: version, MaxVersion: version})
		if err != nil {
			t.Fatal(err)
		}
		if s, modern := l.(*session); modern != (version == tls.VersionTLS13) || modern && (s.in.seq != 0 || s.out.seq != 0) {
			t.Errorf("%x: %T, %+v", version, l, l)
		}
		if got, err := receive(ours, l); err != nil || string(got) != "first" {
			t.Fatalf("%x: %q, %v", version, got, err)
		}
		buf := make([]byte, 100)
		if err := l.WriteInPlace(buf, copy(buf[HeaderSize:], "key")); err != nil {
			t.Fatal(err)
		}
		long := bytes.Repeat([]byte("0123456789"), 5000)
		if n, err := l.Write(long); n != len(long) || err != nil {
			t.Fatal(n, err)
		}
		if err := l.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if err := l.WriteInPlace(buf, 3); err == nil {
			t.Errorf("%x: wrote after close_notify", version)
		}
		var echo []byte
		for err == nil {
			var data []byte
			data, err = receive(ours, l)
			echo = append(echo, data...)
		}
		if want := append([]byte("key"), long...); err != io.EOF || !bytes.Equal(echo, want) {
			t.Errorf("%x: %d bytes came back, %v; want %d and io.EOF", version, len(echo), err, len(want))
		}
		if err := <-served; err != nil {
			t.Error(err)
		}
	}
}

// cache is a session cache that reports what is kept.
type cache struct {
	tls.ClientSessionCache
	kept chan struct{}
}

func (c cache) Put(key string, s *tls.ClientSessionState) {
	c.ClientSessionCache.Put(key, s)
	c.kept <- struct{}{}
}

// TestResume: the tickets in the first record let the next handshake resume the session, and what follows them arrives.
func TestResume(t *testing.T) {
	cert, roots := certificate()
	sessions := cache{tls.NewLRUClientSessionCache(1), make(chan struct{}, 10)}
	client := &tls.Config{RootCAs: roots, ServerName: "test", MinVersion: tls.VersionTLS13, ClientSessionCache: sessions}
	server := &tls.Config{Certificates: []tls.Certificate{cert}}
	for i := range 3 {
		ours, theirs := dial(t)
		served := make(chan error, 1)
		peer := tls.Server(theirs, server)
		go func() {
			_, err := peer.Write([]byte("first"))
			served <- err
		}()
		l := must(Handshake(t.Context(), ours, client))
		if got, err := receive(ours, l); err != nil || string(got) != "first" {
			t.Fatalf("%d: %q, %v", i, got, err)
		}
		if err := <-served; err != nil {
			t.Fatal(err)
		}
		if got := peer.ConnectionState().DidResume; got != (i > 0) {
			t.Errorf("handshake %d: resumed: %t", i, got)
		}
		select {
		case <-sessions.kept:
		case <-time.After(soon):
			t.Fatal("waited for the ticket to be kept")
		}
		if l.(*session).tickets != nil {
			t.Error("the session keeps crypto/tls's connection after the first record")
		}
	}
}

// TestFirstRecord: whatever a peer sends first, crypto/tls, which receives it too, writes nothing and keeps at most a
// ticket; the session goes on with the right keys and numbers.
func TestFirstRecord(t *testing.T) {
	cert, roots := certificate()
	const head, rest = "\x00\x00\x00\x64\x01\x02\x03\x04", "\x00\x01t\x00\x00" // lifetime and age_add; the ticket, without extensions
	valid := "\x04\x00\x00\x0f" + head + "\x01n" + rest
	for what, c := range map[string]struct {
		text string
		typ  byte
		kept bool
	}{
		"part of a ticket":       {valid[:len(valid)-len(rest)], typeHandshake, false},
		"a ticket and a part":    {valid + valid[:2], typeHandshake, true},
		"a ticket":               {valid, typeHandshake, true},
		"many tickets":           {strings.Repeat(valid, 100), typeHandshake, true},
		"a ticket and an update": {valid + updateBoth, typeHandshake, true},
		"an update":              {updateOurs, typeHandshake, false},
		"an update of both keys": {updateBoth, typeHandshake, false},
		"a malformed ticket":     {ticket, typeHandshake, false},
		"a ticket for ever":      {strings.Replace(valid, head, "\xff"+head[1:], 1), typeHandshake, false},
		"a long nonce":           {"\x04\x00\x01\x0d" + head + "\xff" + strings.Repeat("n", 255) + rest, typeHandshake, true},
		"an empty ticket":        {"\x04\x00\x00\x0e" + head + "\x01n\x00\x00\x00\x00", typeHandshake, false},
		"no data":                {"", typeApplicationData, false},
		"Java's alert":           {"\x01\x5a", typeAlert, false},
	} {
		t.Run(what, func(t *testing.T) {
			ours, theirs := dial(t)
			sessions := tls.NewLRUClientSessionCache(1)
			server := tls.Server(theirs, &tls.Config{Certificates: []tls.Certificate{cert}, SessionTicketsDisabled: true})
			served := make(chan error, 1)
			go func() { served <- server.Handshake() }()
			l := must(Handshake(t.Context(), ours, &tls.Config{RootCAs: roots, ServerName: "test", MinVersion: tls.VersionTLS13, ClientSessionCache: sessions}))
			if err := <-served; err != nil {
				t.Fatal(err)
			}
			s, written, taken := l.(*session), ours.written, make(chan struct{})
			keep := s.tickets
			s.tickets = func(record []byte) { keep(record); close(taken) }
			secret, _, err := trafficSecrets(server)
			p := &peer{out: must(newKeys(server.ConnectionState().CipherSuite, bytes.Clone(secret)))}
			if data, err2 := l.Open(p.record(c.text, c.typ, 0)); len(data) > 0 || err != nil || err2 != nil {
				t.Fatal(data, err, err2)
			}
			select {
			case <-taken:
			case <-time.After(soon):
				t.Fatal("waited for crypto/tls to receive the record")
			}
			if _, kept := sessions.Get("test"); kept != c.kept || ours.written != written {
				t.Errorf("a ticket is kept: %t; crypto/tls has written %d bytes", kept, ours.written-written)
			}
			if strings.HasSuffix(c.text, updateOurs) || strings.HasSuffix(c.text, updateBoth) {
				if err := p.out.update(); err != nil {
					t.Fatal(err)
				}
			}
			if part := unfinished([]byte(c.text)); c.typ == typeHandshake && len(part) > 0 {
				if data, err := l.Open(p.record(valid[len(part):], typeHandshake, 0)); len(data) > 0 || err != nil {
					t.Errorf("the rest of the ticket: %q, %v", data, err)
				}
			}
			if data, err := l.Open(p.record("data", typeApplicationData, 0)); string(data) != "data" || err != nil {
				t.Errorf("%q, %v", data, err)
			}
			got := make([]byte, 4)
			if _, err := l.Write([]byte("data")); err != nil {
				t.Error(err)
			}
			if _, err := io.ReadFull(server, got); string(got) != "data" || err != nil {
				t.Errorf("%q, %v", got, err)
			}
		})
	}
}

// TestNoTickets: a first record with data, one too long, and one that does not open leave crypto/tls alone.
func TestNoTickets(t *testing.T) {
	suite := allSuites[0]
	for what, c := range map[string]struct {
		size   int
		typ    byte
		modify byte
	}{
		"data":     {10, typeApplicationData, 0},
		"long":     {maxTickets, typeHandshake, 0},
		"modified": {10, typeHandshake, 1},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := must(newSession(io.Discard, suite, traffic(suite, 1), traffic(suite, 2)))
			s.tickets = func([]byte) { t.Errorf("%s: crypto/tls received it", what) }
			buf := make([]byte, c.size+Overhead)
			copy(buf[HeaderSize:], []byte{newSessionTicket, 0, byte((c.size - 4) >> 8), byte(c.size - 4)})
			record := must(must(newKeys(suite, traffic(suite, 2))).seal(buf, c.size, c.typ))
			record[len(record)-1] ^= c.modify
			if _, err := s.Open(record); (err != nil) != (c.modify != 0) || s.tickets != nil {
				t.Errorf("%s: %v; tickets awaited: %t", what, err, s.tickets != nil)
			}
			synctest.Wait()
		})
	}
}

// TestFirstRecordIsCleared: of a first record with data, no sealed copy stays in the heap beside the session's keys.
func TestFirstRecordIsCleared(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // which would free a copy, and hide it from the dump
	s, p, _ := pair(allSuites[0])
	s.tickets = func([]byte) { t.Error("crypto/tls received data") }
	record := p.record(strings.Repeat("data", 100), typeApplicationData, 0)
	sealed := make([]byte, len(record)-tagSize) // the tag stays where it is
	invert := func(p []byte) {
		for i := range sealed {
			sealed[i] = ^p[i]
		}
	}
	invert(record)
	if _, err := s.Open(record); err != nil { // in place
		t.Fatal(err)
	}
	dump := must(os.Create(t.TempDir() + "/heap"))
	defer dump.Close()
	debug.WriteHeapDump(dump.Fd())
	control := must(memscan.File(dump.Name(), sealed))
	invert(sealed)
	if r := must(memscan.File(dump.Name(), sealed)); r.Full+r.Fragments != 0 || control.Full != 1 {
		t.Errorf("the heap has %d copies and %d fragments of the record; %d inverted ones, want 1", r.Full, r.Fragments, control.Full)
	}
}

// TestLegacyRefuses: with TLS 1.2 too, a modified record does not open, and crypto/tls reads nothing beyond it.
func TestLegacyRefuses(t *testing.T) {
	cert, roots := certificate()
	ours, theirs := dial(t)
	go tls.Server(theirs, &tls.Config{Certificates: []tls.Certificate{cert}}).Write([]byte("first"))
	l, err := Handshake(t.Context(), ours, &tls.Config{RootCAs: roots, ServerName: "test", MaxVersion: tls.VersionTLS12})
	if err != nil {
		t.Fatal(err)
	}
	record := make([]byte, 200)
	if _, err := io.ReadFull(ours, record[:HeaderSize]); err != nil {
		t.Fatal(err)
	}
	n, err := l.Size(record[:HeaderSize])
	if err != nil || n <= HeaderSize || n > len(record) {
		t.Fatal(n, err)
	}
	if _, err := io.ReadFull(ours, record[HeaderSize:n]); err != nil {
		t.Fatal(err)
	}
	record[n-1] ^= 1
	before := ours.read
	for range 2 {
		if data, err := l.Open(record[:n]); len(data) > 0 || err == nil || err == io.EOF || ours.read != before {
			t.Errorf("%q, %v; %d bytes read", data, err, ours.read-before)
		}
		record[n-1] ^= 1 // the original record comes too late
	}
	for _, header := range []string{"\x17\x03\x03\x00\x00", "\x17\x03\x03\x48\x01"} {
		if n, err := l.Size([]byte(header)); n != 0 || !errors.Is(err, errHeader) {
			t.Errorf("%q: %d, %v", header, n, err)
		}
	}
}

// recorder keeps what is read from a connection.
type recorder struct {
	net.Conn
	read bytes.Buffer
}

func (r *recorder) Read(p []byte) (int, error) {
	n, err := r.Conn.Read(p)
	r.read.Write(p[:n])
	return n, err
}

// TestLegacyWarning: with TLS 1.2, a warning, which crypto/tls drops and never sends, brings neither data nor an error.
func TestLegacyWarning(t *testing.T) {
	cert, roots := certificate()
	ours, theirs := dial(t)
	var log bytes.Buffer
	server := tls.Server(theirs, &tls.Config{Certificates: []tls.Certificate{cert}, KeyLogWriter: &log})
	served := make(chan error, 1)
	go func() { served <- server.Handshake() }()
	wire := &recorder{Conn: ours}
	l := must(Handshake(t.Context(), wire, &tls.Config{
		RootCAs: roots, ServerName: "test", MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256},
	}))
	if err := <-served; err != nil {
		t.Fatal(err)
	}
	// The server's keys (RFC 5246, section 6.3), and records like its own (RFC 5288, section 3).
	var client, master []byte
	if _, err := fmt.Sscanf(log.String(), "CLIENT_RANDOM %x %x", &client, &master); err != nil {
		t.Fatal(err)
	}
	seed := slices.Concat([]byte("key expansion"), wire.read.Bytes()[11:43], client)
	first := hmacSHA256(master, seed)
	keys := append(hmacSHA256(master, append(first, seed...)), hmacSHA256(master, append(hmacSHA256(master, first), seed...))...)
	aead := must(newGCM(keys[16:32]))
	record := func(number, typ byte, text string) []byte {
		seq := []byte{0, 0, 0, 0, 0, 0, 0, number}
		header := []byte{typ, 3, 3, 0, byte(len(text))}
		sealed := aead.Seal(nil, slices.Concat(keys[36:40], seq), []byte(text), slices.Concat(seq, header))
		return slices.Concat([]byte{typ, 3, 3, 0, byte(len(seq) + len(sealed))}, seq, sealed)
	}
	for i, r := range [][]byte{record(1, typeAlert, "\x01\x5a"), record(2, typeApplicationData, ""), record(3, typeApplicationData, "data")} {
		if data, err := l.Open(r); string(data) != []string{"", "", "data"}[i] || err != nil {
			t.Errorf("record %d: %q, %v", i, data, err)
		}
	}
}

// TestHandshakeRefuses: the handshake fails for another certificate or version, or if the peer ends within it.
func TestHandshakeRefuses(t *testing.T) {
	cert, roots := certificate()
	_, strangers := certificate()
	for what, c := range map[string]struct {
		cfg    *tls.Config
		server *tls.Config
		want   string
	}{
		"another authority": {&tls.Config{RootCAs: strangers, MinVersion: tls.VersionTLS13}, &tls.Config{}, "unknown authority"},
		"an older server":   {&tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13}, &tls.Config{MaxVersion: tls.VersionTLS12}, "protocol version"},
	} {
		ours, theirs := dial(t)
		c.server.Certificates, c.cfg.ServerName = []tls.Certificate{cert}, "test"
		go tls.Server(theirs, c.server).HandshakeContext(t.Context())
		s, err := Handshake(t.Context(), ours, c.cfg)
		if s != nil || err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v; want %s", what, err, c.want)
		}
	}
	ours, theirs := dial(t)
	theirs.Write([]byte("\x16\x03\x03\x00\x50 not all of it"))
	theirs.Close()
	if s, err := Handshake(t.Context(), ours, &tls.Config{ServerName: "test", MinVersion: tls.VersionTLS13}); s != nil || err == nil {
		t.Errorf("the peer ends within a record: %v", err)
	}
}

func TestHandshakeEndsWithContext(t *testing.T) {
	ours, theirs := dial(t)
	ctx, cancel := context.WithCancel(t.Context())
	failed := make(chan error, 1)
	go func() {
		_, err := Handshake(ctx, ours, &tls.Config{ServerName: "test", MinVersion: tls.VersionTLS13})
		failed <- err
	}()
	if _, err := io.ReadFull(theirs, make([]byte, HeaderSize)); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := <-failed; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// TestRecordConn: crypto/tls receives one record at a time, however much it requests, and nothing after the handshake.
func TestRecordConn(t *testing.T) {
	ours, theirs := dial(t)
	theirs.Write([]byte("\x16\x03\x03\x00\x03abc\x16\x03\x03\x00\x00\x17\x03\x03\x00\x02xy"))
	c := &recordConn{Conn: ours}
	p := make([]byte, 100)
	for _, want := range []string{"\x16\x03\x03\x00\x03", "abc", "\x16\x03\x03\x00\x00", "\x17\x03\x03\x00\x02", "xy"} {
		if n, err := c.Read(p); err != nil || string(p[:n]) != want {
			t.Errorf("read %q, %v; want %q", p[:n], err, want)
		}
	}
	if ours.read != 20 {
		t.Errorf("%d bytes were read, want 20", ours.read)
	}
	c.taken = true
	if n, err := c.Read(p); n != 0 || err != errNoPending {
		t.Errorf("read when taken: %d, %v", n, err)
	}
	if n, err := c.Write(p); n != 0 || !errors.Is(err, errTaken) {
		t.Errorf("wrote when taken: %d, %v", n, err)
	}
}

// TestTrafficSecretsMissing: a session without secrets, or an unexpected layout of tls.Conn, is an error, never an
// empty secret.
func TestTrafficSecretsMissing(t *testing.T) {
	if client, server, err := trafficSecrets(&tls.Conn{}); !errors.Is(err, errTrafficSecrets) || client != nil || server != nil {
		t.Errorf("before the handshake: %x, %x, %v", client, server, err)
	}
	for _, layout := range []any{struct{}{}, struct{ trafficSecret string }{"x"}, "out", new(int)} {
		if got := trafficSecret(reflect.ValueOf(layout)); got != nil {
			t.Errorf("%T: %x", layout, got)
		}
	}
	if got := trafficSecret(reflect.Value{}); got != nil {
		t.Errorf("no such field: %x", got)
	}
}
