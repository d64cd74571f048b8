package admit

import (
	"net"
	"testing"
)

// BenchmarkOwner is one question to the kernel: whose is this connection?
func BenchmarkOwner(b *testing.B) {
	d, err := openDiag()
	if err != nil {
		b.Fatal(err)
	}
	defer d.close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	client, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	defer client.Close()
	server, err := l.Accept()
	if err != nil {
		b.Fatal(err)
	}
	defer server.Close()
	remote, local := addrPort(server.RemoteAddr()), addrPort(server.LocalAddr())
	b.ReportAllocs()
	for b.Loop() {
		if _, err := d.owner(remote, local); err != nil {
			b.Fatal(err)
		}
	}
}
