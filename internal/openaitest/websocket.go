package openaitest

import (
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
)

// The opcodes of RFC 6455, section 5.2.
const (
	opText   = 1
	opBinary = 2
	opClose  = 8
	opPing   = 9
	opPong   = 10
)

const maxFrame = 16 << 20

var errFrame = errors.New("malformed WebSocket frame")

// A frame is one as it came, unmasked.
type frame struct {
	op   byte
	last bool
	data []byte
}

// acceptOf answers a handshake's key (RFC 6455, section 4.2.2).
func acceptOf(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// switchTo writes the head that accepts the handshake.
func (x *exchange) switchTo(accept string, fields ...string) {
	x.write("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: " + accept + "\r\n")
	for _, f := range fields {
		x.write(f + "\r\n")
	}
	x.write("\r\n")
	x.flush()
}

// playWebsocket speaks the Responses API's WebSocket mode: a message of type
// response.create is answered with a response's events, any other is echoed.
func playWebsocket(x *exchange) ending {
	x.switchTo(acceptOf(x.r.Get("Sec-WebSocket-Key")), x.sc.fields()...)
	limit := x.sc.num("n", noLimit)
	for i := 0; ; i++ {
		f, err := x.readMessage()
		switch {
		case err != nil:
			if errors.Is(err, errFrame) {
				x.c.s.fault(err.Error())
			}
			return cut
		case f.op == opClose:
			x.frame(opClose, f.data)
			x.finish()
			return finish
		}
		x.answerFrame(f)
		x.flush()
		if x.err != nil {
			return cut
		}
		if i+1 == limit {
			return x.endWebsocket()
		}
	}
}

// endWebsocket does what the scenario says: cut without a word, or a close.
func (x *exchange) endWebsocket() ending {
	code := x.sc.num("code", 0)
	if code == 0 {
		return cut
	}
	x.frame(opClose, binary.BigEndian.AppendUint16(nil, uint16(code)))
	x.flush()
	if f, err := x.readMessage(); err != nil || f.op != opClose {
		return cut
	}
	x.finish()
	return finish
}

// fields are those that the scenario adds to a 101.
func (sc scenario) fields() []string {
	var fields []string
	if e := sc.text("extension", ""); e != "" {
		fields = append(fields, "Sec-WebSocket-Extensions: "+e)
	}
	if p := sc.text("protocol", ""); p != "" {
		fields = append(fields, "Sec-WebSocket-Protocol: "+p)
	}
	return fields
}

func (x *exchange) answerFrame(f frame) {
	var ask struct{ Type, Model string }
	switch {
	case f.op == opPing:
		x.frame(opPong, f.data)
	case f.op == opPong:
	case json.Unmarshal(f.data, &ask) == nil && ask.Type == "response.create":
		x.ask.Model = ask.Model
		x.r.BodyLen = int64(len(f.data))
		x.respondFrames(x.sc.num("s", 3))
	default:
		x.frame(f.op, f.data)
	}
}

// respondFrames sends a response, an event in each frame.
func (x *exchange) respondFrames(deltas int) {
	m := x.newMessage()
	x.c.s.keep(m)
	st := &stream{message: m, x: x, frames: true}
	st.run(deltas, 0, x.sc.dur(0), noLimit)
}

// frame writes one that is not masked, as a server's are.
func (x *exchange) frame(op byte, data []byte) {
	x.out = append(x.out, 0x80|op)
	switch n := len(data); {
	case n < 126:
		x.out = append(x.out, byte(n))
	case n < 1<<16:
		x.out = binary.BigEndian.AppendUint16(append(x.out, 126), uint16(n))
	default:
		x.out = binary.BigEndian.AppendUint64(append(x.out, 127), uint64(n))
	}
	x.writeBytes(data)
}

// readMessage reads a control frame, or the frames of a message.
func (x *exchange) readMessage() (frame, error) {
	whole := frame{}
	for {
		f, err := x.readFrame()
		if err != nil || f.op >= opClose {
			return f, err
		}
		if f.op != 0 {
			whole.op = f.op
		}
		whole.data = append(whole.data, f.data...)
		if f.last {
			return whole, nil
		}
	}
}

// readFrame wants it masked, as a client's must be (RFC 6455, section 5.1).
func (x *exchange) readFrame() (frame, error) {
	var h [14]byte
	if _, err := io.ReadFull(x.c.in, h[:2]); err != nil {
		return frame{}, err
	}
	f := frame{op: h[0] & 15, last: h[0]&0x80 != 0}
	if h[1]&0x80 == 0 {
		return f, fmt.Errorf("%w: not masked", errFrame)
	}
	n, err := x.readLength(uint64(h[1]&0x7f), h[:])
	if err != nil || n > maxFrame {
		return f, errors.Join(errFrame, err)
	}
	mask := h[:4]
	if _, err := io.ReadFull(x.c.in, mask); err != nil {
		return f, broken(err)
	}
	f.data = make([]byte, n)
	if _, err := io.ReadFull(x.c.in, f.data); err != nil {
		return f, broken(err)
	}
	for i := range f.data {
		f.data[i] ^= mask[i%4]
	}
	return f, nil
}

func (x *exchange) readLength(short uint64, room []byte) (uint64, error) {
	switch short {
	case 126:
		_, err := io.ReadFull(x.c.in, room[:2])
		return uint64(binary.BigEndian.Uint16(room)), err
	case 127:
		_, err := io.ReadFull(x.c.in, room[:8])
		return binary.BigEndian.Uint64(room), err
	}
	return short, nil
}

// playWebsocketSilent accepts, and then reads and says nothing.
func playWebsocketSilent(x *exchange) ending {
	x.switchTo(acceptOf(x.r.Get("Sec-WebSocket-Key")))
	x.c.hold(x.r)
	return cut
}

// playWebsocketTorn accepts, and breaks off in the middle of a frame.
func playWebsocketTorn(x *exchange) ending {
	x.switchTo(acceptOf(x.r.Get("Sec-WebSocket-Key")))
	x.write("\x81\x64" + strings.Repeat("t", 50))
	x.flush()
	return cut
}

// playWebsocketSlow accepts, says its first frame in two pieces, d apart, and
// goes on as ws does.
func playWebsocketSlow(x *exchange) ending {
	x.switchTo(acceptOf(x.r.Get("Sec-WebSocket-Key")))
	x.write("\x81\x0ahello")
	if !x.pause(x.sc.dur(50 * time.Millisecond)) {
		return cut
	}
	x.write("world")
	x.flush()
	for {
		f, err := x.readMessage()
		if err != nil {
			return cut
		}
		if f.op == opClose {
			x.frame(opClose, f.data)
			x.finish()
			return finish
		}
	}
}

// playWebsocketWrong accepts with a key that was never sent.
func playWebsocketWrong(x *exchange) ending {
	x.switchTo(acceptOf("wrong"))
	return hold
}
