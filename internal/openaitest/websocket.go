package openaitest

import (
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
)

// The opcodes of RFC 6455, section 5.2, of which more than the number matters.
const (
	opText  = 1
	opClose = 8
	opPing  = 9
	opPong  = 10
)

const maxFrame = 16 << 20

var errFrame = errors.New("malformed WebSocket frame")

// A frame is one as it came, unmasked.
type frame struct {
	op   byte
	last bool
	data []byte
}

// accept writes the head that accepts the handshake with a key (RFC 6455, section
// 4.2.2), with the fields that the scenario adds.
func (x *exchange) accept(key string) {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	x.write("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
		"Sec-WebSocket-Accept: " + base64.StdEncoding.EncodeToString(sum[:]) + "\r\n")
	if e := x.args["extension"]; e != "" {
		x.write("Sec-WebSocket-Extensions: " + e + "\r\n")
	}
	if p := x.args["protocol"]; p != "" {
		x.write("Sec-WebSocket-Protocol: " + p + "\r\n")
	}
	x.write("\r\n")
	x.flush()
}

// switched accepts the handshake and sends bytes.
func switched(how ending, text string) func(*exchange) ending {
	return func(x *exchange) ending {
		x.accept(x.r.Get("Sec-WebSocket-Key"))
		x.write(text)
		return how
	}
}

// handleWebsocketWrong accepts with a key that was never sent.
func handleWebsocketWrong(x *exchange) ending {
	x.accept("wrong")
	return hold
}

// handleWebsocketSlow sends its first frame in two pieces and then waits for a
// close frame.
func handleWebsocketSlow(x *exchange) ending {
	x.accept(x.r.Get("Sec-WebSocket-Key"))
	x.write("\x81\x0ahello")
	if !x.pause(x.dur(50 * time.Millisecond)) {
		return cut
	}
	x.write("world")
	return x.frames(func(frame) bool { return true })
}

// handleWebsocket implements the Responses API's WebSocket mode: a message of type
// response.create is answered with a response's events, any other is echoed.
func handleWebsocket(x *exchange) ending {
	x.accept(x.r.Get("Sec-WebSocket-Key"))
	left := x.num("n", noLimit)
	return x.frames(func(f frame) bool {
		x.answerFrame(f)
		left--
		return left != 0
	})
}

// frames hands messages to answer until that returns false, or a close frame
// comes, which it answers itself.
func (x *exchange) frames(answer func(frame) bool) ending {
	for x.flush(); x.err == nil; x.flush() {
		f, err := x.readMessage()
		switch {
		case errors.Is(err, errFrame):
			x.c.s.fault(err.Error())
			return cut
		case err != nil:
			return cut
		case f.op == opClose:
			x.frame(opClose, f.data)
			return finish
		case !answer(f):
			return x.closeWebsocket(x.num("code", 0))
		}
	}
	return cut
}

// closeWebsocket cuts the connection, or exchanges close frames if there is a code.
func (x *exchange) closeWebsocket(code int) ending {
	if code == 0 {
		return cut
	}
	x.frame(opClose, binary.BigEndian.AppendUint16(nil, uint16(code)))
	x.flush()
	if f, err := x.readMessage(); err != nil || f.op != opClose {
		return cut
	}
	return finish
}

func (x *exchange) answerFrame(f frame) {
	var ask struct{ Type, Model string }
	switch {
	case f.op == opPing:
		x.frame(opPong, f.data)
	case f.op == opPong:
	case json.Unmarshal(f.data, &ask) == nil && ask.Type == "response.create":
		x.ask.Model, x.r.BodyLen = ask.Model, int64(len(f.data))
		st := &stream{message: x.newMessage(0), x: x, limit: noLimit, frame: func(p []byte) { x.frame(opText, p) }}
		x.c.s.keep(st.message)
		st.run(x.num("s", 3), 0, x.dur(0))
	default:
		x.frame(f.op, f.data)
	}
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
	x.write(string(data))
}

// readMessage reads a control frame, or the frames of a message.
func (x *exchange) readMessage() (frame, error) {
	message := frame{}
	for {
		f, err := readFrame(x.c)
		if err != nil || f.op >= opClose {
			return f, err
		}
		if f.op != 0 {
			message.op = f.op
		}
		message.data = append(message.data, f.data...)
		if f.last {
			return message, nil
		}
	}
}

// readFrame reads a frame. It must be masked, as a client's must be (RFC 6455, section 5.1).
func readFrame(in io.Reader) (f frame, err error) {
	read := func(n uint64) []byte {
		p := make([]byte, n)
		if err == nil {
			_, err = io.ReadFull(in, p)
		}
		return p
	}
	h := read(2)
	if err != nil {
		return f, err
	}
	f.op, f.last = h[0]&15, h[0]&0x80 != 0
	n := uint64(h[1] & 0x7f)
	switch n {
	case 126:
		n = uint64(binary.BigEndian.Uint16(read(2)))
	case 127:
		n = binary.BigEndian.Uint64(read(8))
	}
	if h[1]&0x80 == 0 || n > maxFrame {
		return f, fmt.Errorf("%w: not masked, or of %d bytes", errFrame, n)
	}
	mask := read(4)
	f.data = read(n)
	for i := range f.data {
		f.data[i] ^= mask[i%4]
	}
	return f, err
}
