-- Asks user-service whether a request may pass. If it may, it goes on with who asks in place of the
-- key; if not, the client gets the refusal; if nobody can tell, txn.passed is not set.
local identity = {
  'x-auth-user-id', 'x-auth-user-email', 'x-auth-role', 'x-auth-permissions', 'x-auth-key-id', 'x-auth-key-kind',
}

local function values(list)               -- HAProxy counts from 0, Lua from 1
  return list and table.move(list, 0, #list, 1, {}) or {}
end

core.register_action('forward-auth', { 'http-req' }, function(txn)
  local sent = txn.http:req_get_headers()
  local headers = {}
  for _, name in ipairs{ 'x-api-key', 'authorization', 'x-forwarded-for' } do
    headers[name] = values(sent[name])
  end
  local answer = core.httpclient():get{
    url = 'http://user-service/v1/users/auth?' .. (txn:get_var('txn.needs') or ''),
    dst = 'abns@user-service',
    headers = headers,
  }
  if answer.status == 200 then
    for _, name in ipairs(identity) do txn.http:req_set_header(name, answer.headers[name][0]) end
    txn.http:req_del_header('x-api-key')
    txn.http:req_del_header('authorization')
    txn:set_var('txn.passed', true)
  elseif answer.status == 401 or answer.status == 403 then
    local refusal = txn:reply{ status = answer.status, body = answer.body }
    refusal:add_header('content-type', 'application/json')
    for _, value in ipairs(values(answer.headers['www-authenticate'])) do
      refusal:add_header('www-authenticate', value)
    end
    txn:done(refusal)
  end
end, 0)
