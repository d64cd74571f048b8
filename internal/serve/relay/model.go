package relay

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/apierror"
	"github.com/responses-api-proxy/responses-api-proxy/internal/wire/http1"
	"github.com/responses-api-proxy/responses-api-proxy/internal/wire/jsonscan"
)

// maxModel is the length of the longest model's name that is read, in bytes.
const maxModel = 128

// modelForm is the form of a model's name, without quotes and backslashes: no reader of JSON takes such a string for
// another one.
var modelForm = whole(fmt.Sprintf(`[!#-\[\]-~]{1,%d}`, maxModel))

// CheckModel returns what is wrong with one value of --allow-model.
func CheckModel(name string) error {
	if name = strings.TrimSuffix(name, "*"); !modelForm().MatchString(name) || strings.Contains(name, "*") {
		return fmt.Errorf("a model's name of up to %d printable ASCII characters is needed, or the beginning of one with * behind it", maxModel)
	}
	return nil
}

// The members that modelCheck looks for: the model, and every other spelling that a reader may take for it which does
// not distinguish upper and lower case.
const (
	modelID uint8 = iota + 1
	otherCaseID
)

var modelMembers = jsonscan.Member{Members: []jsonscan.Member{{Name: "model", ID: modelID}, {Name: "model", AnyCase: true, ID: otherCaseID}}}

// modelCheck reads the model of one request's body, as the body passes. A body is refused unless every reader of JSON
// finds the same model in it, whether it keeps the first or the last of two members with one name.
type modelCheck struct {
	allowed []string // names, or beginnings of names with * behind them
	find    jsonscan.Finder
	room    [maxModel + 1]byte
	split   []byte // the beginning of a character at the end of what was read
	found   bool
}

func newModelCheck(allowed []string) *modelCheck {
	m := &modelCheck{allowed: allowed}
	m.find.Room, m.find.PlainNames = m.room[:], true
	m.find.Start(&modelMembers)
	return m
}

// read reads the next bytes of the body, the last if it has ended, and returns why it is refused.
func (m *modelCheck) read(p []byte, ended bool) *apierror.Error {
	isUTF8 := m.isUTF8(p)
	for len(p) > 0 {
		var member uint8
		var kind jsonscan.Kind
		var text []byte
		member, kind, text, p = m.find.Next(p)
		switch {
		case kind == jsonscan.Invalid || !isUTF8:
			return unreadable("the body is not one JSON object in UTF-8, has more than %d levels, or has an escape in the name of a member", jsonscan.MaxDepth)
		case member == 0:
		case member == otherCaseID:
			return unreadable(`"model" is also written in upper case`)
		case m.found:
			return unreadable(`"model" is given twice`)
		case kind != jsonscan.String:
			return unreadable(`"model" is not a string`)
		case !modelForm().Match(text):
			return unreadable(`"model" is empty, has more than %d bytes, an escape, or a character that is not printable ASCII`, maxModel)
		case !m.allows(text):
			return apierror.Newf(apierror.ModelNotAllowed, 0, "The model %q is not allowed here, but %s. The limit is --allow-model.", text, strings.Join(m.allowed, ", "))
		default:
			m.found = true
		}
	}
	switch {
	case ended && !m.find.Done():
		return unreadable("the body is not one JSON object")
	case ended && !m.found:
		return unreadable(`"model" is missing`)
	}
	return nil
}

// isUTF8 reports whether p continues a text in UTF-8. A reader that ignores what is not could find other names.
func (m *modelCheck) isUTF8(p []byte) bool {
	if len(m.split) > 0 {
		p = append(m.split, p...)
	}
	whole := jsonscan.WholeRunes(p)
	m.split = bytes.Clone(p[whole:])
	return utf8.Valid(p[:whole])
}

func (m *modelCheck) allows(model []byte) bool {
	return slices.ContainsFunc(m.allowed, func(name string) bool {
		prefix, isPrefix := strings.CutSuffix(name, "*")
		return string(model) == name || isPrefix && bytes.HasPrefix(model, []byte(prefix))
	})
}

func unreadable(format string, args ...any) *apierror.Error {
	return apierror.Newf(apierror.ModelNotReadable, 0, "This proxy allows certain models only (--allow-model), and cannot tell which one this request is for: %s.", fmt.Sprintf(format, args...))
}

// beginModel prepares to read the request's model, and returns why its head is refused: a body in another coding or
// character set would be read otherwise by the upstream.
func (x *exchange) beginModel() *apierror.Error {
	if len(x.relay.cfg.Models) == 0 || !x.route.is(hasModel) {
		return nil
	}
	x.model = newModelCheck(x.relay.cfg.Models)
	types := 0
	for _, f := range x.Head.Fields {
		switch {
		case isVariant(f.Name, "content-type"):
			if types++; types > 1 || !isJSON(f.Value) {
				return unreadable("its Content-Type is not application/json in UTF-8")
			}
		case isVariant(f.Name, "content-encoding") && !http1.Is(f.Value, "identity"):
			return unreadable("it has a Content-Encoding")
		}
	}
	return nil
}

// isJSON reports whether a Content-Type is JSON, in UTF-8 if it names a character set.
func isJSON(contentType []byte) bool {
	media, parameter, _ := bytes.Cut(contentType, []byte(";"))
	parameter = bytes.TrimSpace(parameter)
	return http1.Is(bytes.TrimSpace(media), "application/json") &&
		(len(parameter) == 0 || http1.Is(parameter, "charset=utf-8") || http1.Is(parameter, `charset="utf-8"`))
}
