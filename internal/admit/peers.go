package admit

import (
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"github.com/responses-api-proxy/responses-api-proxy/internal/listen"
)

// peers finds out who is at the other end of connections.
type peers struct {
	diag     *diag // nil where no TCP connections come, or they cannot be told
	commands bool  // to be looked up
}

// openPeers returns peers also with an error, for what they can tell without.
func openPeers(cfg Config) (*peers, error) {
	p := &peers{commands: cfg.Identify}
	if !cfg.TCP {
		return p, nil
	}
	var err error
	p.diag, err = openDiag()
	return p, err
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
		uid, gid, groups, pid, err := listen.PeerOfUnix(c)
		who.UID, who.Groups, who.Known, who.PID = uid, append(groups, gid), err == nil, int(pid)
		if p.commands && err == nil {
			who.Command = command(pid)
		}
	}
	return who
}

// command is the name of a process, or "" if it cannot be seen. If the process
// has ended it may be another's, which has its number now.
func command(pid int32) string {
	name, err := os.ReadFile("/proc/" + strconv.Itoa(int(pid)) + "/comm")
	if err != nil {
		return ""
	}
	return strings.TrimSuffix(string(name), "\n")
}

func addrPort(a net.Addr) netip.AddrPort {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	return tcp.AddrPort()
}
