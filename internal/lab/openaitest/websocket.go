package openaitest

import (
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// Opcodes (RFC 6455, section 5.2).
const (
	OpText  = 1
	OpClose = 8
	opPing  = 9
	opPong  = 10
)

const maxFrame = 16 << 20

var errFrame = errors.New("malformed WebSocket frame")

// A Frame is one frame of a WebSocket.
type Frame struct {
	Op     byte
	More   bool // the message does not end with it
	Masked bool // as a client's frames must be, and a server's must not (RFC 6455, section 5.1)
	Data   []byte
}

// Append appends the bytes of the frame to p.
func (f Frame) Append(p []byte) []byte {
	const mask = "\x01\x02\x03\x04"
	first, masked := f.Op, byte(0)
	if !f.More {
		first |= 0x80
	}
	if f.Masked {
		masked = 0x80
	}
	switch n := len(f.Data); {
	case n < 126:
		p = append(p, first, masked|byte(n))
	case n < 1<<16:
		p = binary.BigEndian.AppendUint16(append(p, first, masked|126), uint16(n))
	default:
		p = binary.BigEndian.AppendUint64(append(p, first, masked|127), uint64(n))
	}
	if !f.Masked {
		return append(p, f.Data...)
	}
	p = append(p, mask...)
	for i, b := range f.Data {
		p = append(p, b^mask[i%4])
	}
	return p
}

// ReadFrame reads a frame. The error is io.EOF if the connection ended before it.
func ReadFrame(in io.Reader) (f Frame, err error) {
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
	f = Frame{Op: h[0] & 15, More: h[0]&0x80 == 0, Masked: h[1]&0x80 != 0}
	n := uint64(h[1] & 0x7f)
	switch n {
	case 126:
		n = uint64(binary.BigEndian.Uint16(read(2)))
	case 127:
		n = binary.BigEndian.Uint64(read(8))
	}
	if n > maxFrame || h[0]&0x70 != 0 {
		return f, fmt.Errorf("%w: %d bytes, reserved bits %#x", errFrame, n, h[0]&0x70)
	}
	mask := make([]byte, 4)
	if f.Masked {
		mask = read(4)
	}
	f.Data = read(n)
	for i := range f.Data {
		f.Data[i] ^= mask[i%4]
	}
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return f, err
}

// switching is the part of a head that every upgrade to WebSocket begins with.
const switching = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"

// accept writes the head that accepts the handshake (RFC 6455, section 4.2.2), with the fields that the scenario adds.
func (x *exchange) accept() {
	sum := sha1.Sum([]byte(x.r.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	x.write(switching + "Sec-WebSocket-Accept: " + base64.StdEncoding.EncodeToString(sum[:]) + "\r\n")
	if e := x.given["extension"]; e != "" {
		x.write("Sec-WebSocket-Extensions: " + e + "\r\n")
	}
	if p := x.given["protocol"]; p != "" {
		x.write("Sec-WebSocket-Protocol: " + p + "\r\n")
	}
	x.write("\r\n")
	x.flush()
}

// switched accepts the handshake and sends bytes.
func switched(how ending, text string) func(*exchange) ending {
	return func(x *exchange) ending {
		x.accept()
		x.write(text)
		return how
	}
}

// handleWebsocketSlow sends its first frame in two pieces and then waits for a close frame.
func handleWebsocketSlow(x *exchange) ending {
	switched(hold, "\x81\x0ahello")(x)
	if !x.pause(x.dur()) {
		return cut
	}
	x.write("world")
	return x.frames(func(Frame) bool { return true })
}

// handleWebsocket implements the Responses API's WebSocket mode: a message of type response.create is answered with a
// response's events, any other is echoed.
func handleWebsocket(x *exchange) ending {
	x.accept()
	left := x.num("n") // 0: forever
	return x.frames(func(f Frame) bool {
		x.answerFrame(f)
		left--
		return left != 0
	})
}

// frames hands messages to answer until that returns false, or a close frame comes, which it answers itself.
func (x *exchange) frames(answer func(Frame) bool) ending {
	for x.flush(); x.err == nil; x.flush() {
		f, err := x.readMessage()
		switch {
		case errors.Is(err, errFrame):
			x.c.s.fault(err.Error())
			return cut
		case err != nil:
			return cut
		case f.Op == OpClose:
			x.frame(OpClose, f.Data)
			return finish
		case !answer(f):
			return x.closeWebsocket(x.num("code"))
		}
	}
	return cut
}

// closeWebsocket cuts the connection, or exchanges close frames if there is a code.
func (x *exchange) closeWebsocket(code int) ending {
	if code == 0 {
		return cut
	}
	x.frame(OpClose, binary.BigEndian.AppendUint16(nil, uint16(code)))
	x.flush()
	if f, err := x.readMessage(); err != nil || f.Op != OpClose {
		return cut
	}
	return finish
}

func (x *exchange) answerFrame(f Frame) {
	var ask struct{ Type, Model string }
	switch {
	case f.Op == opPing:
		x.frame(opPong, f.Data)
	case f.Op == opPong:
	case json.Unmarshal(f.Data, &ask) == nil && ask.Type == "response.create":
		x.ask.Model, x.r.BodyLen = ask.Model, int64(len(f.Data))
		st := &stream{message: x.newMessage(0), x: x, limit: -1, emit: func(_ string, p []byte) { x.frame(OpText, p) }}
		st.run(0, x.num("s"), 0, x.dur())
	default:
		x.frame(f.Op, f.Data)
	}
}

// frame writes one as servers do.
func (x *exchange) frame(op byte, data []byte) {
	x.out = Frame{Op: op, Data: data}.Append(x.out)
	x.write("")
}

// readMessage reads a control frame, or the frames of a message.
func (x *exchange) readMessage() (Frame, error) {
	message := Frame{}
	for {
		f, err := ReadFrame(x.c)
		if err == nil && !f.Masked {
			err = fmt.Errorf("%w: not masked", errFrame)
		}
		if err != nil || f.Op >= OpClose {
			return f, err
		}
		if f.Op != 0 {
			message.Op = f.Op
		}
		message.Data = append(message.Data, f.Data...)
		if !f.More {
			return message, nil
		}
	}
}
