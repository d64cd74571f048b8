package admit

import (
	"net"
	"net/netip"

	"github.com/responses-api-proxy/responses-api-proxy/internal/listen"
)

// peers finds out who is at the other end of connections.
type peers struct{ diag *diag } // nil where no TCP connections come

func openPeers(tcp bool) (*peers, error) {
	if !tcp {
		return &peers{}, nil
	}
	d, err := openDiag()
	if err != nil {
		return nil, err
	}
	return &peers{d}, nil
}

func (p *peers) close() {
	if p.diag != nil {
		p.diag.close()
	}
}

// caller never guesses: who cannot be told is not known.
func (p *peers) caller(nc net.Conn) (who Caller) {
	switch c := nc.(type) {
	case *net.TCPConn:
		who.TCP = true
		if p.diag != nil {
			uid, err := p.diag.owner(addrPort(c.RemoteAddr()), addrPort(c.LocalAddr()))
			who.UID, who.Known = uid, err == nil
		}
	case *net.UnixConn:
		uid, gid, groups, _, err := listen.PeerOfUnix(c)
		who.UID, who.Groups, who.Known = uid, append(groups, gid), err == nil
	}
	return who
}

func addrPort(a net.Addr) netip.AddrPort {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	return tcp.AddrPort()
}
